export KUBECONFIG=/home/me/.cache/packtrain/kubeconfig/my-project_us-central1_trainer.yaml
PROJECT_NUMBER="$(gcloud projects describe my-project --format='value(projectNumber)')"
# HF_TOKEN: set it from a file or a password manager, so that no history has it

# 1. services (APIs) of Google Cloud: what the steps below use
gcloud services enable artifactregistry.googleapis.com cloudbuild.googleapis.com cloudresourcemanager.googleapis.com compute.googleapis.com container.googleapis.com iam.googleapis.com iamcredentials.googleapis.com storage.googleapis.com sts.googleapis.com \
  --project=my-project

# 2. bucket gs://my-bucket: checkpoints, events and the adapter; in the cluster's region, never public
gcloud storage buckets create gs://my-bucket \
  --project=my-project \
  --location=us-central1 \
  --uniform-bucket-level-access \
  --public-access-prevention
gcloud storage buckets update gs://my-bucket --update-labels=managed-by=packtrain

# 3. image repository packtrain in us-central1: has the trainer's image
gcloud artifacts repositories create packtrain \
  --location=us-central1 \
  --project=my-project \
  --repository-format=docker \
  --labels=managed-by=packtrain

# 4. bucket gs://my-project_cloudbuild: what the image is built from, as gcloud uploads it
gcloud storage buckets create gs://my-project_cloudbuild \
  --project=my-project \
  --location=us-central1 \
  --uniform-bucket-level-access \
  --public-access-prevention
gcloud storage buckets update gs://my-project_cloudbuild --update-labels=managed-by=packtrain

# 5. 9 networks for the GPUs' network cards: GPUDirect-RDMA between 2 nodes: without them a ninth of the bandwidth
gcloud compute networks create trainer-gvnic \
  --project=my-project \
  --subnet-mode=custom \
  --mtu=8896 \
  --description=managed-by=packtrain
gcloud compute networks subnets create trainer-gvnic \
  --project=my-project \
  --network=trainer-gvnic \
  --region=us-central1 \
  --range=192.168.1.0/24 \
  --description=managed-by=packtrain
gcloud compute firewall-rules create trainer-gvnic \
  --project=my-project \
  --network=trainer-gvnic \
  --action=ALLOW \
  --rules=tcp:0-65535,udp:0-65535,icmp \
  --source-ranges=192.168.1.0/24 \
  --description=managed-by=packtrain
gcloud compute networks create trainer-rdma \
  --project=my-project \
  --subnet-mode=custom \
  --mtu=8896 \
  --network-profile=us-central1-b-vpc-roce \
  --description=managed-by=packtrain
gcloud compute networks subnets create trainer-rdma-0 \
  --project=my-project \
  --network=trainer-rdma \
  --region=us-central1 \
  --range=192.168.2.0/24 \
  --description=managed-by=packtrain
gcloud compute networks subnets create trainer-rdma-1 \
  --project=my-project \
  --network=trainer-rdma \
  --region=us-central1 \
  --range=192.168.3.0/24 \
  --description=managed-by=packtrain
gcloud compute networks subnets create trainer-rdma-2 \
  --project=my-project \
  --network=trainer-rdma \
  --region=us-central1 \
  --range=192.168.4.0/24 \
  --description=managed-by=packtrain
gcloud compute networks subnets create trainer-rdma-3 \
  --project=my-project \
  --network=trainer-rdma \
  --region=us-central1 \
  --range=192.168.5.0/24 \
  --description=managed-by=packtrain
gcloud compute networks subnets create trainer-rdma-4 \
  --project=my-project \
  --network=trainer-rdma \
  --region=us-central1 \
  --range=192.168.6.0/24 \
  --description=managed-by=packtrain
gcloud compute networks subnets create trainer-rdma-5 \
  --project=my-project \
  --network=trainer-rdma \
  --region=us-central1 \
  --range=192.168.7.0/24 \
  --description=managed-by=packtrain
gcloud compute networks subnets create trainer-rdma-6 \
  --project=my-project \
  --network=trainer-rdma \
  --region=us-central1 \
  --range=192.168.8.0/24 \
  --description=managed-by=packtrain
gcloud compute networks subnets create trainer-rdma-7 \
  --project=my-project \
  --network=trainer-rdma \
  --region=us-central1 \
  --range=192.168.9.0/24 \
  --description=managed-by=packtrain

# 6. cluster trainer in us-central1: runs the pods; with Workload Identity, so that a pod needs no key file
gcloud container clusters create trainer \
  --location=us-central1 \
  --project=my-project \
  --node-locations=us-central1-b \
  --release-channel=regular \
  --enable-ip-alias \
  --enable-dataplane-v2 \
  --enable-multi-networking \
  --workload-pool=my-project.svc.id.goog \
  --workload-metadata=GKE_METADATA \
  --machine-type=e2-standard-4 \
  --num-nodes=1 \
  --labels=managed-by=packtrain

# 7. node pool packtrain-a3-ultragpu-8g-reservation: has the GPUs; scales from zero to 2, so that nothing is paid while nothing runs
gcloud container node-pools create packtrain-a3-ultragpu-8g-reservation \
  --cluster=trainer \
  --location=us-central1 \
  --project=my-project \
  --node-locations=us-central1-b \
  --machine-type=a3-ultragpu-8g \
  --accelerator=type=nvidia-h200-141gb,count=8,gpu-driver-version=LATEST \
  --image-type=COS_CONTAINERD \
  --ephemeral-storage-local-ssd=count=32 \
  --enable-gvnic \
  --workload-metadata=GKE_METADATA \
  --enable-autoscaling \
  --num-nodes=0 \
  --total-max-nodes=2 \
  --location-policy=ANY \
  --reservation-affinity=specific \
  --reservation=r \
  --additional-node-network=network=trainer-gvnic,subnetwork=trainer-gvnic \
  --additional-node-network=network=trainer-rdma,subnetwork=trainer-rdma-0 \
  --additional-node-network=network=trainer-rdma,subnetwork=trainer-rdma-1 \
  --additional-node-network=network=trainer-rdma,subnetwork=trainer-rdma-2 \
  --additional-node-network=network=trainer-rdma,subnetwork=trainer-rdma-3 \
  --additional-node-network=network=trainer-rdma,subnetwork=trainer-rdma-4 \
  --additional-node-network=network=trainer-rdma,subnetwork=trainer-rdma-5 \
  --additional-node-network=network=trainer-rdma,subnetwork=trainer-rdma-6 \
  --additional-node-network=network=trainer-rdma,subnetwork=trainer-rdma-7 \
  --labels=managed-by=packtrain

# 8. kubectl's way in: for the steps inside the cluster
gcloud container clusters get-credentials trainer --location=us-central1 --project=my-project

# 9. networks gvnic-1, rdma-0 to rdma-7 in the cluster: what the pods' annotations name
kubectl apply --server-side --field-manager=packtrain --filename=- <<'EOF'
apiVersion: networking.gke.io/v1
kind: GKENetworkParamSet
metadata:
  name: gvnic-1
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
spec:
  vpc: trainer-gvnic
  vpcSubnet: trainer-gvnic
  deviceMode: NetDevice
---
apiVersion: networking.gke.io/v1
kind: Network
metadata:
  name: gvnic-1
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
spec:
  type: Device
  parametersRef:
    group: networking.gke.io
    kind: GKENetworkParamSet
    name: gvnic-1
---
apiVersion: networking.gke.io/v1
kind: GKENetworkParamSet
metadata:
  name: rdma-0
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
spec:
  vpc: trainer-rdma
  vpcSubnet: trainer-rdma-0
  deviceMode: RDMA
---
apiVersion: networking.gke.io/v1
kind: Network
metadata:
  name: rdma-0
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
spec:
  type: Device
  parametersRef:
    group: networking.gke.io
    kind: GKENetworkParamSet
    name: rdma-0
---
apiVersion: networking.gke.io/v1
kind: GKENetworkParamSet
metadata:
  name: rdma-1
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
spec:
  vpc: trainer-rdma
  vpcSubnet: trainer-rdma-1
  deviceMode: RDMA
---
apiVersion: networking.gke.io/v1
kind: Network
metadata:
  name: rdma-1
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
spec:
  type: Device
  parametersRef:
    group: networking.gke.io
    kind: GKENetworkParamSet
    name: rdma-1
---
apiVersion: networking.gke.io/v1
kind: GKENetworkParamSet
metadata:
  name: rdma-2
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
spec:
  vpc: trainer-rdma
  vpcSubnet: trainer-rdma-2
  deviceMode: RDMA
---
apiVersion: networking.gke.io/v1
kind: Network
metadata:
  name: rdma-2
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
spec:
  type: Device
  parametersRef:
    group: networking.gke.io
    kind: GKENetworkParamSet
    name: rdma-2
---
apiVersion: networking.gke.io/v1
kind: GKENetworkParamSet
metadata:
  name: rdma-3
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
spec:
  vpc: trainer-rdma
  vpcSubnet: trainer-rdma-3
  deviceMode: RDMA
---
apiVersion: networking.gke.io/v1
kind: Network
metadata:
  name: rdma-3
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
spec:
  type: Device
  parametersRef:
    group: networking.gke.io
    kind: GKENetworkParamSet
    name: rdma-3
---
apiVersion: networking.gke.io/v1
kind: GKENetworkParamSet
metadata:
  name: rdma-4
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
spec:
  vpc: trainer-rdma
  vpcSubnet: trainer-rdma-4
  deviceMode: RDMA
---
apiVersion: networking.gke.io/v1
kind: Network
metadata:
  name: rdma-4
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
spec:
  type: Device
  parametersRef:
    group: networking.gke.io
    kind: GKENetworkParamSet
    name: rdma-4
---
apiVersion: networking.gke.io/v1
kind: GKENetworkParamSet
metadata:
  name: rdma-5
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
spec:
  vpc: trainer-rdma
  vpcSubnet: trainer-rdma-5
  deviceMode: RDMA
---
apiVersion: networking.gke.io/v1
kind: Network
metadata:
  name: rdma-5
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
spec:
  type: Device
  parametersRef:
    group: networking.gke.io
    kind: GKENetworkParamSet
    name: rdma-5
---
apiVersion: networking.gke.io/v1
kind: GKENetworkParamSet
metadata:
  name: rdma-6
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
spec:
  vpc: trainer-rdma
  vpcSubnet: trainer-rdma-6
  deviceMode: RDMA
---
apiVersion: networking.gke.io/v1
kind: Network
metadata:
  name: rdma-6
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
spec:
  type: Device
  parametersRef:
    group: networking.gke.io
    kind: GKENetworkParamSet
    name: rdma-6
---
apiVersion: networking.gke.io/v1
kind: GKENetworkParamSet
metadata:
  name: rdma-7
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
spec:
  vpc: trainer-rdma
  vpcSubnet: trainer-rdma-7
  deviceMode: RDMA
---
apiVersion: networking.gke.io/v1
kind: Network
metadata:
  name: rdma-7
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
spec:
  type: Device
  parametersRef:
    group: networking.gke.io
    kind: GKENetworkParamSet
    name: rdma-7
EOF

# 10. namespace training: whoever may make pods in it has the rights of the service account
kubectl apply --server-side --field-manager=packtrain --filename=- <<'EOF'
apiVersion: v1
kind: Namespace
metadata:
  name: training
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
EOF

# 11. Kubernetes service account llama3-finetuner-ksa: whose rights the pods have
kubectl apply --server-side --field-manager=packtrain --filename=- <<'EOF'
apiVersion: v1
kind: ServiceAccount
metadata:
  name: llama3-finetuner-ksa
  namespace: training
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
automountServiceAccountToken: false
EOF

# 12. roles/storage.objectUser on gs://my-bucket for the pods: the run writes checkpoints and the adapter; on this bucket alone, never on the project
kubectl annotate serviceaccount llama3-finetuner-ksa \
  --namespace=training \
  --overwrite \
  'packtrain.dev/gave-157b575245e5=roles/storage.objectUser on gs://my-bucket'
gcloud storage buckets add-iam-policy-binding gs://my-bucket "--member=principal://iam.googleapis.com/projects/$PROJECT_NUMBER/locations/global/workloadIdentityPools/my-project.svc.id.goog/subject/ns/training/sa/llama3-finetuner-ksa" \
  --role=roles/storage.objectUser \
  --condition=None

# 13. roles/artifactregistry.reader on packtrain for the nodes: the nodes pull the image; on this repository alone
kubectl annotate serviceaccount llama3-finetuner-ksa \
  --namespace=training \
  --overwrite \
  'packtrain.dev/gave-24a7a20c7b73=roles/artifactregistry.reader on packtrain'
gcloud artifacts repositories add-iam-policy-binding packtrain \
  --location=us-central1 \
  --project=my-project \
  "--member=serviceAccount:$PROJECT_NUMBER-compute@developer.gserviceaccount.com" \
  --role=roles/artifactregistry.reader \
  --condition=None

# 14. roles/artifactregistry.writer on packtrain for Cloud Build: packtrain image build pushes the image; on this repository alone
BUILD_ACCOUNT="$(gcloud builds get-default-service-account --project=my-project)"
kubectl annotate serviceaccount llama3-finetuner-ksa \
  --namespace=training \
  --overwrite \
  'packtrain.dev/gave-37bf13295afe=roles/artifactregistry.writer on packtrain'
gcloud artifacts repositories add-iam-policy-binding packtrain \
  --location=us-central1 \
  --project=my-project \
  "--member=serviceAccount:$BUILD_ACCOUNT" \
  --role=roles/artifactregistry.writer \
  --condition=None

# 15. roles/storage.objectViewer on gs://my-project_cloudbuild for Cloud Build: reads what the image is built from; on this bucket alone
kubectl annotate serviceaccount llama3-finetuner-ksa \
  --namespace=training \
  --overwrite \
  'packtrain.dev/gave-bee54c81e749=roles/storage.objectViewer on gs://my-project_cloudbuild'
gcloud storage buckets add-iam-policy-binding gs://my-project_cloudbuild "--member=serviceAccount:$BUILD_ACCOUNT" \
  --role=roles/storage.objectViewer \
  --condition=None

# 16. Secret huggingface-secret: the Hugging Face token
kubectl apply --server-side --field-manager=packtrain --filename=- <<EOF
apiVersion: v1
kind: Secret
metadata:
  name: huggingface-secret
  namespace: training
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
type: Opaque
stringData:
  token: "$HF_TOKEN"
EOF

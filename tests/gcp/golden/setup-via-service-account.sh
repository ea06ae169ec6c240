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

# 5. cluster trainer in us-central1: runs the pods; with Workload Identity, so that a pod needs no key file
gcloud container clusters create trainer \
  --location=us-central1 \
  --project=my-project \
  --release-channel=regular \
  --enable-ip-alias \
  --enable-dataplane-v2 \
  --workload-pool=my-project.svc.id.goog \
  --workload-metadata=GKE_METADATA \
  --machine-type=e2-standard-4 \
  --num-nodes=1 \
  --labels=managed-by=packtrain

# 6. node pool packtrain-g2-standard-8-spot: has the GPUs; scales from zero to 1, so that nothing is paid while nothing runs
gcloud container node-pools create packtrain-g2-standard-8-spot \
  --cluster=trainer \
  --location=us-central1 \
  --project=my-project \
  --machine-type=g2-standard-8 \
  --accelerator=type=nvidia-l4,count=1,gpu-driver-version=LATEST \
  --image-type=COS_CONTAINERD \
  --ephemeral-storage-local-ssd=count=1 \
  --enable-gvnic \
  --workload-metadata=GKE_METADATA \
  --enable-autoscaling \
  --num-nodes=0 \
  --total-max-nodes=1 \
  --location-policy=ANY \
  --spot \
  --labels=managed-by=packtrain

# 7. kubectl's way in: for the steps inside the cluster
gcloud container clusters get-credentials trainer --location=us-central1 --project=my-project

# 8. namespace training: whoever may make pods in it has the rights of the service account
kubectl apply --server-side --field-manager=packtrain --filename=- <<'EOF'
apiVersion: v1
kind: Namespace
metadata:
  name: training
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
EOF

# 9. IAM service account llama3-finetuner-ksa@my-project.iam.gserviceaccount.com: the classical way to the bucket (--via-service-account)
gcloud iam service-accounts create llama3-finetuner-ksa \
  --project=my-project \
  --display-name=packtrain \
  --description=managed-by=packtrain

# 10. Kubernetes service account llama3-finetuner-ksa: whose rights the pods have
kubectl apply --server-side --field-manager=packtrain --filename=- <<'EOF'
apiVersion: v1
kind: ServiceAccount
metadata:
  name: llama3-finetuner-ksa
  namespace: training
  labels:
    app.kubernetes.io/name: packtrain
    app.kubernetes.io/managed-by: packtrain
  annotations:
    iam.gke.io/gcp-service-account: llama3-finetuner-ksa@my-project.iam.gserviceaccount.com
automountServiceAccountToken: false
EOF

# 11. roles/storage.objectUser on gs://my-bucket for the IAM service account: the run writes checkpoints and the adapter; on this bucket alone, never on the project
kubectl annotate serviceaccount llama3-finetuner-ksa \
  --namespace=training \
  --overwrite \
  'packtrain.dev/gave-1e6bfb0c44f0=roles/storage.objectUser on gs://my-bucket'
gcloud storage buckets add-iam-policy-binding gs://my-bucket \
  --member=serviceAccount:llama3-finetuner-ksa@my-project.iam.gserviceaccount.com \
  --role=roles/storage.objectUser \
  --condition=None

# 12. roles/iam.workloadIdentityUser on llama3-finetuner-ksa@my-project.iam.gserviceaccount.com: the pods' account acts as the IAM service account
kubectl annotate serviceaccount llama3-finetuner-ksa \
  --namespace=training \
  --overwrite \
  'packtrain.dev/gave-df6a50e426ea=roles/iam.workloadIdentityUser on llama3-finetuner-ksa@my-project.iam.gserviceaccount.com'
gcloud iam service-accounts add-iam-policy-binding llama3-finetuner-ksa@my-project.iam.gserviceaccount.com \
  --project=my-project \
  '--member=serviceAccount:my-project.svc.id.goog[training/llama3-finetuner-ksa]' \
  --role=roles/iam.workloadIdentityUser \
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

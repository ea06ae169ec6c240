#!/usr/bin/env bash
# Builds the image with Cloud Build and pushes it to Artifact Registry. Options go to `gcloud builds submit`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

PROJECT_ID="${PROJECT_ID:?set PROJECT_ID to the id of your Google Cloud project}"
REGION="${REGION:-us-central1}"
REPO="${REPO:-ml-containers}"
IMAGE_NAME="${IMAGE_NAME:-llama-fsdp-trainer}"
TAG="${TAG:-v1}"
IMAGE_URI="${REGION}-docker.pkg.dev/${PROJECT_ID}/${REPO}/${IMAGE_NAME}:${TAG}"

# The packtrain that is installed here, as a wheel, and the lock file of what it needs.
packtrain image build run.yaml --context image

# The libraries for CUDA are some gigabytes: more time than the ten minutes that a build has by default.
gcloud builds submit --tag "${IMAGE_URI}" . \
  --project "${PROJECT_ID}" --timeout 5400s --machine-type e2-highcpu-8 "$@"
echo "${IMAGE_URI}"

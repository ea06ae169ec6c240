"""The doctor: reads manifests, node pools and policies, ours or foreign, and finds what goes wrong."""

"""The rendered pods on this machine: what would fail in the cluster without a GPU's doing fails here."""

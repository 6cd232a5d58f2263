"""Where the files lie that these tests look at."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
CLUSTER = REPOSITORY / "cluster"
KUBERNETES = CLUSTER / "kubernetes"
KUBERNETES_GPU = CLUSTER / "kubernetes-gpu"

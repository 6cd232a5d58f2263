"""Workers in pods of the Dask operator, in a new DaskCluster or an existing one."""

import asyncio
import concurrent.futures
import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence

from emqa_dask.run.connection import OneSchedulerClient, watch_connection
from emqa_dask.run.remote import PrepareWorker, wait_for_workers
from emqa_dask.run.supervise import describe_error
from emqa_dask.run.workers import (
    GPU_VARIABLES,
    make_gpu_worker_arguments,
    make_worker_environment,
    select_memory_gib,
)
from emqa_dask.settings import Settings

POD_MEMORY_FACTOR = (
    1.125  # of a pod to a worker's memory, so that its nanny ends it with a reason before the kernel does
)
IDLE_S = 3600  # after which the operator deletes a cluster whose driver has died
MIB_PER_GIB = 1024
DASK_OPERATOR_URL = "https://kubernetes.dask.org/en/latest/installing.html"
Say = Callable[[str], None]


@contextlib.contextmanager
def open_kubernetes(settings: Settings, preload: Sequence[str] = (), say: Say = print) -> Iterator:
    """A distributed Client of workers in pods, once there is one; a DaskCluster made here is deleted.

    `run.workers` is their number; 0 lets the operator's autoscaler choose between `kubernetes.min_workers` and
    `max_workers`. With `kubernetes.cluster` a DaskCluster that is there is used, and neither scaled nor deleted. Raises
    ValueError or RuntimeError, with the remedy, without the package, the API or the operator.
    """
    try:
        from dask_kubernetes.operator import KubeCluster
    except ImportError as error:
        raise RuntimeError(
            "scheduler 'kubernetes' needs dask-kubernetes: pip install 'emqa_dask[kubernetes]'"
        ) from error
    run = settings.run
    section = settings.kubernetes
    if run.tls:
        raise ValueError(
            "run.tls cannot be set with scheduler 'kubernetes': encrypt its network by the cluster's means"
        )
    name = section.cluster or f"emqa-{uuid.uuid4().hex[:8]}"
    manifest = None if section.cluster else make_manifest(settings, preload, name)
    check_dask_operator(section.namespace or None)
    namespace = {"namespace": section.namespace} if section.namespace else {}
    with contextlib.ExitStack() as stack:
        try:
            made_cluster = (
                KubeCluster(custom_cluster_spec=manifest, quiet=True, **namespace)
                if manifest
                else KubeCluster.from_name(section.cluster, quiet=True, **namespace)
            )
        except Exception as error:
            raise RuntimeError(
                f"Kubernetes gave no DaskCluster {name} ({describe_error(error)}): see `kubectl describe daskcluster "
                f"{name}` and the logs of the Dask operator and of the scheduler's pod"
            ) from error
        cluster = stack.enter_context(made_cluster)
        client = stack.enter_context(watch_connection(OneSchedulerClient(cluster, set_as_default=False)))
        if manifest and not run.workers:
            cluster.adapt(minimum=section.min_workers, maximum=section.max_workers)
        wait_for_workers(
            client, run.wait_s, say, lambda: f"see `kubectl get pods --selector dask.org/cluster-name={name}`"
        )
        client.register_plugin(PrepareWorker(preload))
        yield client


def make_manifest(settings: Settings, preload: Sequence[str], name: str) -> dict:
    """Manifest of the DaskCluster resource; ValueError without an image."""
    from dask_kubernetes.operator.kubecluster.kubecluster import make_cluster_spec

    run = settings.run
    section = settings.kubernetes
    if not section.image:
        raise ValueError("kubernetes.image is empty: name an image with this emqa_dask in it (cluster/Dockerfile)")
    variables = make_worker_environment(preload) | dict(pair.split("=", 1) for pair in section.env)
    command = list(section.worker_command) or ["dask", "worker"]
    memory_gib = select_memory_gib(run, section.gpus_per_worker)
    pod_mib = round(memory_gib * max(section.gpus_per_worker, 1) * POD_MEMORY_FACTOR * MIB_PER_GIB)
    limits = {"memory": f"{pod_mib}Mi"}
    arguments = ["--nthreads", str(run.worker_threads), "--memory-limit", f"{round(memory_gib * MIB_PER_GIB)}MiB"]
    if section.gpus_per_worker:
        command = list(section.worker_command) or ["dask", "cuda", "worker"]
        arguments += make_gpu_worker_arguments(settings)
        variables |= GPU_VARIABLES
        limits["nvidia.com/gpu"] = str(section.gpus_per_worker)
    cores = run.worker_threads * max(section.gpus_per_worker, 1)
    manifest = make_cluster_spec(
        name=name,
        image=section.image,
        n_workers=run.workers or section.min_workers,
        resources={"requests": {"cpu": str(cores), "memory": f"{pod_mib}Mi"}, "limits": limits},
        env=variables,
        worker_command=command + arguments,
        idle_timeout=IDLE_S,
    )
    (scheduler,) = manifest["spec"]["scheduler"]["spec"]["containers"]
    memory = f"{round(section.scheduler_memory_gib * MIB_PER_GIB)}Mi"
    scheduler["resources"] = {"requests": {"cpu": "1", "memory": memory}, "limits": {"memory": memory}}
    pod = manifest["spec"]["worker"]["spec"]
    (worker,) = pod["containers"]
    if section.secret:
        worker["envFrom"] = [{"secretRef": {"name": section.secret}}]
    claims = [volume.split(":", 1) for volume in section.volumes]
    pod["volumes"] = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim, _ in claims]
    worker["volumeMounts"] = [{"name": claim, "mountPath": path} for claim, path in claims]
    return manifest


def check_dask_operator(namespace: str | None) -> None:
    """RuntimeError with the remedy where no Kubernetes answers, or where it lacks the operator's resources."""
    import kr8s

    async def request_status_code() -> int:
        api = await kr8s.asyncio.api(namespace=namespace)
        resource = {"version": "kubernetes.dask.org/v1", "namespace": api.namespace, "url": "daskclusters"}
        async with api.call_api("GET", **resource, params={"limit": 1}, raise_for_status=False) as response:
            return response.status_code

    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # this thread may have an event loop, as in a notebook
        try:
            status_code = pool.submit(asyncio.run, request_status_code()).result()
        except Exception as error:
            raise RuntimeError(
                f"no Kubernetes answers ({describe_error(error)}): `kubectl get daskclusters` has to work here, with a "
                "kubeconfig or the service account of a pod"
            ) from error
    if status_code == 404:
        raise RuntimeError(f"the Dask operator is not installed in this Kubernetes: see {DASK_OPERATOR_URL}")
    if status_code != 200:
        raise RuntimeError(
            f"Kubernetes answers {status_code} to `kubectl get daskclusters`: its administrator can allow that"
        )

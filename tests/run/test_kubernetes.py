"""Laws of workers in pods: what is asked of the operator fits its schema, and no Kubernetes is an error at once.

No Kubernetes can run here: that pods of it come and work is not tested.
"""

import json
from importlib.resources import files

import jsonschema
import pytest
import yaml

pytest.importorskip("dask_kubernetes", reason="pip install 'emqa_dask[kubernetes]'")
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.kubernetes import make_manifest
from emqa_dask.settings import Run, Settings, SettingsError
from emqa_dask.settings.schedulers import Kubernetes


def settings(run=(), **section) -> Settings:
    section = {"image": "registry/emqa:1", **section}
    return Settings(run=Run(scheduler="kubernetes", **dict(run)), kubernetes=Kubernetes(**section)).check()


def strict(schema):
    """The schema with unknown keys refused wherever it names the known ones: the API server would drop them."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    nested = {key: strict(value) for key, value in schema.items()}
    return {"additionalProperties": False} | nested if "properties" in schema else nested


@pytest.fixture(scope="module")
def schema():
    """Of a DaskCluster's spec, from the custom resource definition that the operator installs."""
    chart = files("dask_kubernetes") / "operator/deployment/helm/dask-kubernetes-operator"
    definition = yaml.load((chart / "crds/daskcluster.yaml").read_text(), Loader=yaml.CSafeLoader)
    (version,) = definition["spec"]["versions"]
    return strict(version["schema"]["openAPIV3Schema"]["properties"]["spec"])


ALL = settings(
    {"memory_gib": 6.0, "threads_per_worker": 2}, gpus_per_worker=2, min_workers=3, secret="bucket", env=("A=1=2",),
    volumes=("archive:/archive", "workspace:/data/workspace"), scheduler_memory_gib=2.0,
)  # fmt: skip


@pytest.mark.parametrize("wanted", [settings(), ALL])
def test_what_is_asked_for_fits_the_operators_schema(schema, wanted):
    manifest = json.loads(json.dumps(make_manifest(wanted, ["json.tool"], "emqa-1")))
    jsonschema.Draft7Validator(schema).validate(manifest["spec"])
    assert (manifest["apiVersion"], manifest["kind"]) == ("kubernetes.dask.org/v1", "DaskCluster")


def test_the_schema_would_refuse_what_is_wrong(schema):
    for path, value in ((("replicas",), "three"), (("spec", "containers", 0, "volumeMount"), [])):
        manifest = make_manifest(ALL, [], "emqa-1")
        place = manifest["spec"]["worker"]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        assert not jsonschema.Draft7Validator(schema).is_valid(manifest["spec"])


def test_a_pod_has_what_the_settings_say():
    manifest = make_manifest(ALL, ["json.tool"], "emqa-1")
    worker = manifest["spec"]["worker"]
    (container,) = worker["spec"]["containers"]
    command = " ".join(container["args"])
    assert worker["replicas"] == 3
    assert command.startswith("dask cuda worker --nthreads 2 --memory-limit 6144MiB --resources GPU=1 ")
    limits = container["resources"]["limits"]
    assert limits == {"memory": "13824Mi", "nvidia.com/gpu": "2"}
    environment = {pair["name"]: pair["value"] for pair in container["env"]}
    assert environment["A"] == "1=2"
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["DASK_DISTRIBUTED__WORKER__PRELOAD"] == "['emqa_dask.run.workers', 'json.tool']"
    assert {m["mountPath"]: m["name"] for m in container["volumeMounts"]}["/data/workspace"] == "workspace"
    (scheduler,) = manifest["spec"]["scheduler"]["spec"]["containers"]
    allowed = {"name": "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "value": "0"}
    assert allowed in scheduler["env"]
    assert scheduler["resources"]["limits"] == {"memory": "2048Mi"}


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"min_workers": 0}, "kubernetes.min_workers"), ({"env": ("A",)}, "kubernetes.env"),
        ({"volumes": ("archive",)}, "kubernetes.volumes"), ({"scheduler_memory_gib": 0.0}, "scheduler_memory_gib"),
    ],
)  # fmt: skip
def test_settings_that_could_not_work_are_refused(section, key):
    with pytest.raises(SettingsError, match=key):
        settings(**section)


def test_no_image_and_tls_are_errors_with_the_remedy():
    with pytest.raises(ValueError, match=r"kubernetes\.image is empty.*cluster/Dockerfile"):
        open_cluster(settings(image="")).__enter__()
    with pytest.raises(ValueError, match=r"run\.tls cannot be set"):
        open_cluster(settings({"tls": "certificates"})).__enter__()


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
clusters: [{name: here, cluster: {server: "https://127.0.0.1:1"}}]
contexts: [{name: here, context: {cluster: here, user: me, namespace: emqa}}]
users: [{name: me, user: {token: none}}]
"""


@pytest.mark.parametrize("text", [None, KUBECONFIG])
def test_no_kubernetes_is_an_error_with_the_remedy(tmp_path, monkeypatch, text):
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"no Kubernetes answers .*kubectl get daskclusters"):
        open_cluster(settings()).__enter__()

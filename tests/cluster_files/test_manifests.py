"""Kubernetes manifests: valid, with the least rights, and in agreement with each other."""

import json
import shutil
import subprocess
from importlib.resources import files

import jsonschema
import pytest
import yaml
from distributed.cli import dask_scheduler, dask_worker

from emqa_dask.cli.arguments import build_parser
from emqa_dask.run.workers import GPU_VARIABLES, make_gpu_worker_arguments
from emqa_dask.settings import Settings
from tests.cluster_files.files import KUBERNETES, KUBERNETES_GPU

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
pytest.importorskip("dask_kubernetes", reason="pip install 'emqa_dask[kubernetes]'")

MANIFESTS = sorted(
    path
    for folder in (KUBERNETES, KUBERNETES_GPU)
    for path in folder.glob("*.yaml")
    if path.name != "kustomization.yaml"
)
CRDS = files("dask_kubernetes") / "operator" / "deployment" / "helm" / "dask-kubernetes-operator" / "crds"


def objects(path) -> list[dict]:
    return [tree for tree in yaml.safe_load_all(path.read_text()) if tree]


EVERY = [tree for path in MANIFESTS for tree in objects(path)]
OURS = [tree for tree in EVERY if tree["apiVersion"].startswith("kubernetes.dask.org/")]
PLAIN = [tree for tree in EVERY if tree not in OURS]


def name(tree) -> str:
    return f"{tree['kind']}-{tree['metadata'].get('name', 'new')}"


def strictly(schema):
    """`schema` with unknown keys refused wherever it names the known ones, as `kubectl apply` does."""
    if isinstance(schema, dict):
        strict = {key: strictly(value) for key, value in schema.items()}
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict.setdefault("additionalProperties", False)
        return strict
    return [strictly(item) for item in schema] if isinstance(schema, list) else schema


def schema_of(kind: str) -> dict:
    """The operator's own schema, from its custom resource definition, of an object's spec."""
    definition = yaml.load((CRDS / f"{kind.lower()}.yaml").read_text(), Loader=yaml.CSafeLoader)
    (version,) = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
    return strictly(version["schema"]["openAPIV3Schema"]["properties"]["spec"])


def pods(tree) -> list[tuple[str, dict]]:
    """The pods that an object asks for: (where, pod spec)."""
    found = []
    if isinstance(tree, dict):
        if "containers" in tree:
            return [("", tree)]
        for key, value in tree.items():
            found += [(f"{key}.{where}".rstrip("."), pod) for where, pod in pods(value)]
    return found


PODS = [pytest.param(pod, id=f"{name(tree)}-{where}") for tree in EVERY for where, pod in pods(tree)]


@pytest.mark.parametrize("tree", PLAIN, ids=name)
def test_plain_objects_are_valid(tree):
    named = tree | {"metadata": {"name": "new"} | tree["metadata"]}
    kubernetes_validate.validate(named, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("tree", OURS, ids=name)
def test_dask_objects_are_valid_for_the_operator(tree):
    jsonschema.validate(tree["spec"], schema_of(tree["kind"]))


def test_the_operators_schema_refuses_what_is_wrong():
    """The check above can fail: a misspelt key, a wrong type and a lost key are all found."""
    (tree,) = [tree for tree in OURS if tree["kind"] == "DaskWorkerGroup"]
    schema = schema_of("DaskWorkerGroup")
    text = json.dumps(tree["spec"])
    changes = ('"replicas": 1', '"replica": 1'), ('"replicas": 1', '"replicas": "1"'), ('"cluster": "emqa", ', "")
    for old, new in changes:
        assert old in text
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(json.loads(text.replace(old, new)), schema)


@pytest.mark.parametrize("pod", PODS)
def test_pods_run_with_the_least_rights(pod):
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    mounted = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= mounted


@pytest.mark.parametrize("pod", PODS)
def test_programs_know_their_arguments(pod):
    (container,) = pod["containers"]
    program, verb, *arguments = container["args"]
    if (program, verb) == ("emqa", "triage"):
        assert build_parser().parse_args([verb, *arguments]).sources == ["/archive"]
    elif verb == "cuda":
        command = pytest.importorskip("dask_cuda.cli", reason="make install-dev").worker
        assert command.make_context("worker", arguments[1:]).params["resources"] == "GPU=1"
    else:
        command = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}[verb]
        assert program == "dask"
        assert command.make_context(verb, arguments).params


def test_gpu_workers_are_those_that_the_code_starts():
    (tree,) = [tree for tree in OURS if tree["kind"] == "DaskWorkerGroup"]
    (container,) = tree["spec"]["worker"]["spec"]["containers"]
    wanted = make_gpu_worker_arguments(Settings())
    assert container["args"][-len(wanted) :] == wanted
    assert {variable["name"]: variable["value"] for variable in container["env"]} == GPU_VARIABLES


def test_no_role_gives_more_than_named_things_in_its_namespace():
    roles = [tree for tree in EVERY if tree["kind"] in ("Role", "ClusterRole")]
    assert [tree["kind"] for tree in roles] == ["Role"]
    for rule in roles[0]["rules"]:
        assert not {"*"} & {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
        assert not {"secrets", "pods/exec", "serviceaccounts/token"} & set(rule["resources"])
    bound = [subject["name"] for tree in EVERY if tree["kind"] == "RoleBinding" for subject in tree["subjects"]]
    accounts = {pod.values[0]["serviceAccountName"] for pod in PODS}
    assert accounts == {"emqa"}
    assert "emqa" not in bound


def test_the_files_agree_with_each_other():
    known = {(tree["kind"], tree["metadata"].get("name")) for tree in EVERY}
    assert {tree["metadata"].get("namespace", "emqa") for tree in EVERY} == {"emqa"}
    for pod in (param.values[0] for param in PODS):
        assert ("ServiceAccount", pod["serviceAccountName"]) in known
        claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
        assert {("PersistentVolumeClaim", claim) for claim in claims} <= known
    for tree in OURS:
        if "cluster" in tree["spec"]:
            assert ("DaskCluster", tree["spec"]["cluster"]) in known
    drivers = [tree["spec"]["template"]["spec"]["containers"][0] for tree in EVERY if tree["kind"] == "Job"]
    (cluster,) = [tree for tree in OURS if tree["kind"] == "DaskCluster"]
    (port,) = [p["port"] for p in cluster["spec"]["scheduler"]["service"]["ports"] if p["name"] == "tcp-comm"]
    assert len(drivers) == 2
    for driver in drivers:
        assert f"tcp://{cluster['metadata']['name']}-scheduler:{port}" in driver["args"]


def test_the_gpu_job_differs_by_image_and_device_alone():
    (job,), (gpu_job,) = (objects(folder / "job.yaml") for folder in (KUBERNETES, KUBERNETES_GPU))
    (driver,), (gpu_driver,) = (tree["spec"]["template"]["spec"]["containers"] for tree in (job, gpu_job))
    assert gpu_driver["args"] == [*driver["args"], "--set", "run.device=cuda"]
    driver |= {"args": gpu_driver["args"], "image": gpu_driver["image"]}
    assert job == gpu_job


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here: only its kustomize is used")
def test_kustomize_puts_the_image_everywhere():
    built = subprocess.run(["kubectl", "kustomize", str(KUBERNETES)], capture_output=True, text=True, check=True).stdout
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    listed = {name(tree) for path in kustomization["resources"] for tree in objects(KUBERNETES / path)}
    trees = [tree for tree in yaml.safe_load_all(built) if tree]
    assert {name(tree) for tree in trees} == listed
    images = {container["image"] for tree in trees for _, pod in pods(tree) for container in pod["containers"]}
    (image,) = kustomization["images"]
    assert images == {f"{image['newName']}:{image['newTag']}"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here: only its kustomize is used")
def test_the_gpu_overlay_leaves_no_cpu_worker_or_image():
    command = ["kubectl", "kustomize", str(KUBERNETES_GPU)]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    trees = {name(tree): tree for tree in yaml.safe_load_all(built) if tree}
    images = {container["image"] for tree in trees.values() for _, pod in pods(tree) for container in pod["containers"]}
    (driver,) = [container for tree in objects(KUBERNETES_GPU / "job.yaml") for _, pod in pods(tree)
                 for container in pod["containers"]]  # fmt: skip
    assert images == {driver["image"]}
    assert trees["DaskCluster-emqa"]["spec"]["worker"]["replicas"] == 0
    assert trees["DaskWorkerGroup-emqa-gpu"]["spec"]["cluster"] == "emqa"

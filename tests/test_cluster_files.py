"""The cluster files that are shipped are what Ray, AWS and Kubernetes take, and name no secret."""

from __future__ import annotations

import re
import shlex
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from distill import run
from distill.arguments import make_parser
from distill.loading import load_experiment
from distill.storage import SIGNALS, STORAGE

ROOT = Path(__file__).resolve().parent.parent
LOCAL, AWS = ROOT / "cluster.yaml", ROOT / "docs" / "clusters" / "aws.yaml"
KUBERNETES = ROOT / "docs" / "clusters" / "rayjob.yaml"
KUBERNETES_VERSION = "1.33"
EXTRAS = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))


def prepared(file: Path) -> dict[str, Any]:
    """What ``ray up`` makes of a file before it starts anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(file.read_text()))
    validate_config(config)
    return config


def ray_job() -> tuple[dict[str, Any], dict[str, Any]]:
    claim, job = yaml.safe_load_all(KUBERNETES.read_text())
    return claim, job


def pod_groups(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


@pytest.mark.parametrize("file", [LOCAL, AWS], ids=["local", "aws"])
def test_ray_takes_the_file(file: Path) -> None:
    config = prepared(file)
    assert config["head_node_type"] in config["available_node_types"]
    if file == LOCAL:  # provider local has one kind of worker, made from these
        assert yaml.safe_load(file.read_text())["min_workers"] == config["max_workers"] == 2


@pytest.mark.parametrize("file", [LOCAL, AWS], ids=["local", "aws"])
def test_every_node_gets_the_package_the_token_and_the_storage(file: Path) -> None:
    config = prepared(file)
    assert config["file_mounts"] == {
        "~/tutelage": ".",
        "~/.ray/auth_token": "~/.ray/auth_token",
    }
    for kind in ("head", "worker"):
        setup = "\n".join(config[f"{kind}_setup_commands"])
        assert re.search(rf"{STORAGE}=/", setup)
        assert "RAY_AUTH_MODE=token" in setup
        (extras,) = re.findall(r"pip install .* ~/tutelage(?:\[(\w+)\])?$", setup, re.MULTILINE)
        assert not extras or extras in EXTRAS
        assert "constraints.txt" in setup


@pytest.mark.parametrize("file", [LOCAL, AWS], ids=["local", "aws"])
def test_commands_are_ones_that_a_shell_reads(file: Path) -> None:
    config = prepared(file)
    names = ("head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    for name in names:
        for command in config[f"{name}_commands"]:
            subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.mark.parametrize("file", [LOCAL, AWS], ids=["local", "aws"])
def test_ray_start_takes_its_options_and_listens_where_nobody_else_does(file: Path) -> None:
    from ray.scripts.scripts import start

    config = prepared(file)
    for kind in ("head", "worker"):
        commands = "\n".join(config[f"{kind}_start_ray_commands"])
        ((settings, words),) = re.findall(
            r"((?:[A-Za-z_0-9]+=\S+ )+)ray start((?: --\S+)+)", commands
        )
        options = start.make_context("start", words.split()).params
        assert all(word.startswith(("RAY_", "AUTOSCALER_")) for word in settings.split())
        assert options["head"] == (kind == "head")
        if options["head"]:
            assert options["dashboard_host"] == "127.0.0.1"


def test_aws_takes_the_machines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Held against AWS's own description of the request, and Ray's steps to a stand-in for AWS."""
    import boto3
    from botocore.validate import ParamValidator
    from moto import mock_aws
    from ray.autoscaler._private.aws.config import bootstrap_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes the key that it makes to ~/.ssh
    (tmp_path / ".ssh").mkdir()
    config = prepared(AWS)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    stand_in = mock_aws()
    stand_in.start(reset=False)  # other tests' S3 server, in this process, would lose its bucket
    try:
        ec2 = boto3.client("ec2", config["provider"]["region"])
        request = ec2.meta.service_model.operation_model("RunInstances").input_shape
        for kind in config["available_node_types"].values():
            asked = kind["node_config"] | {"MinCount": 1, "MaxCount": 1}
            report = ParamValidator().validate(asked, request)
            assert not report.has_errors(), report.generate_report()
        gpu = config["available_node_types"]["gpu"]
        (found,) = ec2.describe_instance_types(InstanceTypes=[gpu["node_config"]["InstanceType"]])[
            "InstanceTypes"
        ]
        assert found["GpuInfo"]["Gpus"][0]["Count"] == 1
        assert found["VCpuInfo"]["DefaultVCpus"] == 8
        bootstrapped = bootstrap_aws(deepcopy(config))
    finally:
        stand_in.stop(remove_data=False)
    for kind in bootstrapped["available_node_types"].values():
        assert kind["node_config"]["SubnetIds"]
        assert kind["node_config"]["SecurityGroupIds"]


def test_aws_grows_and_shrinks_spot_nodes_beside_a_head_that_stays() -> None:
    kinds = prepared(AWS)["available_node_types"]
    assert kinds["gpu"]["min_workers"] < kinds["gpu"]["max_workers"]
    assert kinds["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in kinds["head"]["node_config"]
    assert all("IamInstanceProfile" in kind["node_config"] for kind in kinds.values())


def test_records_may_lie_apart_from_the_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    (url,) = re.findall(rf"{SIGNALS}=(\S+)'", AWS.read_text())
    monkeypatch.setenv(SIGNALS, url)
    experiment = load_experiment("demo", ["signals.mirror_bytes=1000000000"])
    assert experiment.signals.root == url == "s3://my-bucket/tutelage/signals"


def test_kubernetes_takes_the_claim_and_the_pods() -> None:
    claim, job = ray_job()
    kubernetes_validate.validate(claim, KUBERNETES_VERSION, strict=True)
    for group in pod_groups(job):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
        kubernetes_validate.validate(pod, KUBERNETES_VERSION, strict=True)


def test_kuberay_takes_the_job() -> None:
    schema = yaml.safe_load((ROOT / "tests" / "rayjob.schema.yaml").read_text())
    _, job = ray_job()
    jsonschema.validate(job, schema)
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job | {"spec": job["spec"] | {"entryPoint": "x"}}, schema)


def test_the_job_is_a_command_of_ours_and_ray_is_the_one_that_is_declared() -> None:
    _, job = ray_job()
    program, *words = shlex.split(job["spec"]["entrypoint"])
    assert program == "tutelage"
    options = make_parser(run._HANDLERS).parse_args(words)
    assert load_experiment(options.experiment, options.set).workers.count == 2
    declared = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert declared
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == declared[1]


def test_every_pod_shares_the_storage_and_refers_to_the_token() -> None:
    claim, job = ray_job()
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert job["spec"]["rayClusterSpec"]["authOptions"]["mode"] == "token"
    for group in pod_groups(job):
        spec = group["template"]["spec"]
        (container,) = spec["containers"]
        claims = {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"]
            for volume in spec["volumes"]
            if "persistentVolumeClaim" in volume
        }
        (mount,) = [one for one in container["volumeMounts"] if one["name"] in claims]
        assert claims[mount["name"]] == claim["metadata"]["name"]
        assert {"name": STORAGE, "value": mount["mountPath"]} in container["env"]


@pytest.mark.parametrize("file", [LOCAL, AWS, KUBERNETES], ids=["local", "aws", "kubernetes"])
def test_no_file_holds_a_secret(file: Path) -> None:
    text = file.read_text()
    assert "kind: Secret" not in text
    secret = r"(?i)aws_access|aws_secret|password\s*[:=]|RAY_AUTH_TOKEN\b|\bAKIA\w|PRIVATE KEY"
    assert not re.findall(secret, text)

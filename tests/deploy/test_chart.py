"""The Helm chart, rendered by helm itself: valid for Kubernetes, hardened, its parts fit each other and Penstock."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from policies.check import check
from proxy.accounts.file import KeyFile, hashing
from proxy.accounts.keys import Keys
from proxy.config import Settings, load
from tests.bench.candidates import BenchError, tool
from tests.deploy.tools import CHART, helm, invalid, rendered, template
from tests.proxy.keyring import give

EVERYTHING = str(Path(__file__).with_name("everything.yaml"))
WAYS = {
    "by default": ("--set", "settings.upstream=https://api.openai.com/v1"),
    "without a disk": ("--set", "settings.upstream=https://x/v1,audit.persistence.enabled=false,topologySpread=false"),
    "with everything": ("--values", EVERYTHING),
    "a policy of others": ("--set", "settings.upstream=https://x/v1,policy.existingConfigMap=ours,networkPolicy.enabled=false"),
}  # fmt: skip
VERSIONS = ["1.30", "1.36"]
CUSTOM = {"ServiceMonitor", "PrometheusRule"}
"""Kinds of the Prometheus operator, for which there is no schema here."""


@pytest.fixture(scope="module", params=WAYS.values(), ids=list(WAYS))
def documents(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return rendered(*request.param)


@pytest.fixture(scope="module")
def everything() -> list[dict[str, Any]]:
    return rendered("--values", EVERYTHING)


def only(documents: list[dict[str, Any]], *kinds: str, name: str = "penstock") -> dict[str, Any]:
    (found,) = (each for each in documents if each["kind"] in kinds and each["metadata"]["name"] == name)
    return found


def workload(documents: list[dict[str, Any]]) -> dict[str, Any]:
    return only(documents, "Deployment", "StatefulSet")


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_helm_finds_nothing_to_complain_of(way: tuple[str, ...]) -> None:
    done = subprocess.run([helm(), "lint", "--strict", CHART, *way], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_kubernetes_takes_it(documents: list[dict[str, Any]]) -> None:
    assert invalid([each for each in documents if each["kind"] not in CUSTOM], VERSIONS) == []


def test_the_schemas_do_find_mistakes(documents: list[dict[str, Any]]) -> None:
    wrong = {**workload(documents), "spec": {**workload(documents)["spec"], "replica": 2}}
    assert invalid([wrong], ["1.36"]) != []


def test_no_pod_can_do_more_than_it_must(documents: list[dict[str, Any]]) -> None:
    for each in documents:
        if each["kind"] not in {"Deployment", "StatefulSet"}:
            continue
        pod = each["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False, "PENSTOCK_PORT=tcp://... would stop it"
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            allowed = container["securityContext"]
            assert allowed["allowPrivilegeEscalation"] is False
            assert allowed["capabilities"] == {"drop": ["ALL"]}
            assert allowed.get("readOnlyRootFilesystem", container["name"] != "penstock") is True


def test_what_selects_finds_and_ports_have_their_names(documents: list[dict[str, Any]]) -> None:
    pods = {
        each["metadata"]["name"]: each["spec"]["template"] for each in documents if "template" in each.get("spec", {})
    }
    for each in documents:
        if each["kind"] != "Service":
            continue
        selected = [
            pod for pod in pods.values() if each["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        ]
        assert len(selected) == 1, each["metadata"]["name"]
        named = {port["name"] for container in selected[0]["spec"]["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in each["spec"]["ports"]} <= named
    container = pods["penstock"]["spec"]["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "admin"
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    spec = workload(documents)["spec"]
    claims = {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
    assert mounted == claims | {volume["name"] for volume in pods["penstock"]["spec"]["volumes"]}
    paths = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert not [(a, b) for a in paths for b in paths if b.startswith(a + "/")], "a mount in a read-only mount fails"


def test_it_has_the_time_to_end_well(documents: list[dict[str, Any]]) -> None:
    pod = workload(documents)["spec"]["template"]["spec"]
    rest = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > rest + settings(documents).drain_timeout


def settings(documents: list[dict[str, Any]]) -> Any:
    """What Penstock reads in the pod."""
    text = only(documents, "ConfigMap")["data"]["penstock.yaml"]
    return load(None, **YAML(typ="safe", pure=True).load(text))


def test_penstock_takes_its_settings(everything: list[dict[str, Any]]) -> None:
    made = settings(everything)
    assert list(made.all_upstreams) == ["anthropic", "openai"]
    assert made.policy == "/etc/penstock/policy"
    environment = {each["name"] for each in workload(everything)["spec"]["template"]["spec"]["containers"][0]["env"]}
    ours = {"PENSTOCK_CONFIG", "PENSTOCK_CREDENTIALS", "PENSTOCK_KEYS_DIR", "PENSTOCK_LOG_LEVEL", "PENSTOCK_STATE"}
    assert environment == ours | {"OPENAI_KEY"}


def test_replicas_know_the_same_keys(everything: list[dict[str, Any]], tmp_path: Path) -> None:
    """A Secret, as Kubernetes mounts it: read-only for our group, links into a folder whose name begins with dots."""
    pod = workload(everything)["spec"]["template"]["spec"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "keys"]
    assert volume["secret"] == {"secretName": "callers", "defaultMode": 0o440}
    told = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    assert {"name": "keys", "mountPath": told["PENSTOCK_KEYS_DIR"], "readOnly": True} in pod["containers"][0][
        "volumeMounts"
    ]
    secret = give(tmp_path / "made", "ci")
    mounted = tmp_path / "mounted"
    (mounted / "..2026_11_28").mkdir(parents=True)
    (mounted / "..data").symlink_to("..2026_11_28")
    for name in ("keys.json", "keys.key"):
        (mounted / "..2026_11_28" / name).write_bytes((tmp_path / "made" / name).read_bytes())
        (mounted / "..2026_11_28" / name).chmod(0o440)
        (mounted / name).symlink_to(f"..data/{name}")
    keys = Keys(KeyFile(mounted / "keys.json"), hashing(mounted / "keys.key"))
    assert keys.find(secret.encode()) is not None


def test_penstock_takes_a_policy_as_kubernetes_mounts_it(everything: list[dict[str, Any]], tmp_path: Path) -> None:
    """A folder with links into a folder whose name begins with dots."""
    hidden = tmp_path / "..2026_11_28"
    hidden.mkdir()
    (tmp_path / "..data").symlink_to(hidden.name)
    for name, text in only(everything, "ConfigMap", name="penstock-policy")["data"].items():
        (hidden / name).write_text(text)
        (tmp_path / name).symlink_to(f"..data/{name}")
    result = check(str(tmp_path), live=True)
    assert result.ok, result.lines()
    assert result.policy is not None
    assert [policy.id for policy in result.policy.policies] == ["support-bot"]


def test_pods_are_rolled_when_what_they_read_changes() -> None:
    def stamp(value: str) -> str:
        made = workload(rendered("--set", f"settings.upstream={value}"))
        return str(made["spec"]["template"]["metadata"]["annotations"]["checksum/config"])

    assert stamp("https://a/v1") != stamp("https://b/v1")
    assert stamp("https://a/v1") == stamp("https://a/v1")


def test_the_autoscaler_scales_what_is_there(everything: list[dict[str, Any]]) -> None:
    scaler = only(everything, "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["kind"] == workload(everything)["kind"] == "StatefulSet"
    assert "replicas" not in workload(everything)["spec"]
    assert [metric["type"] for metric in scaler["metrics"]] == ["Pods", "External", "Resource"]
    _, latency, _ = scaler["metrics"]
    job = only(everything, "ServiceMonitor")["spec"]["endpoints"][0]["relabelings"][0]["replacement"]
    asked = latency["external"]["metric"]
    assert asked["selector"]["matchLabels"] == {"part": "queue", "job": job}
    told = (CHART.parent.parent / "README.md").read_text().partition("```yaml\nexternalRules:")[2].partition("```")[0]
    (rule,) = YAML(typ="safe", pure=True).load(f"externalRules:{told}")["externalRules"]
    assert rule["name"]["as"] == asked["name"]
    # Else the adapter asks for the namespace of who asks, which no recorded series has.
    assert rule["resources"] == {"namespaced": False}
    without = rendered(*WAYS["without a disk"], "--set", "autoscaling.enabled=true")
    assert only(without, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["kind"] == "Deployment"


def test_prometheus_finds_the_metrics_and_takes_the_rules(everything: list[dict[str, Any]], tmp_path: Path) -> None:
    monitor = only(everything, "ServiceMonitor")["spec"]
    admin = only(everything, "Service", name="penstock-admin")
    assert monitor["selector"]["matchLabels"].items() <= admin["metadata"]["labels"].items()
    api = only(everything, "Service")
    assert not monitor["selector"]["matchLabels"].items() <= api["metadata"]["labels"].items()
    assert [endpoint["port"] for endpoint in monitor["endpoints"]] == ["admin"]
    with (tmp_path / "rules.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(only(everything, "PrometheusRule")["spec"], file)
    try:
        program = tool("prometheus").replace("prometheus", "promtool")
    except BenchError as error:
        pytest.skip(str(error))
    done = subprocess.run(
        [program, "check", "rules", tmp_path / "rules.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(only(everything, "ConfigMap", name="penstock-dashboards")["data"]) == {
        "penstock-traffic.json", "penstock-guard.json", "penstock-health.json",
    }  # fmt: skip


def test_only_who_is_named_may_call_and_be_called(everything: list[dict[str, Any]]) -> None:
    policy = only(everything, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert [rule["ports"][0]["port"] for rule in policy["ingress"]] == ["api", "admin"]
    assert all(rule["from"] for rule in policy["ingress"])
    blocks = [to["ipBlock"] for rule in policy["egress"] for to in rule["to"] if "ipBlock" in to]
    (anywhere,) = [block for block in blocks if block["cidr"] == "0.0.0.0/0"]
    assert "169.254.0.0/16" in anywhere["except"], "the cloud's own metadata holds its keys"
    classifier = only(everything, "NetworkPolicy", name="penstock-classifier")["spec"]
    assert classifier["podSelector"]["matchLabels"]["app.kubernetes.io/name"] == "penstock-classifier"
    [rule] = classifier["ingress"]
    [caller] = rule["from"]
    assert (
        caller["podSelector"]["matchLabels"].items()
        <= workload(everything)["spec"]["template"]["metadata"]["labels"].items()
    )
    assert rule["ports"] == [{"port": "http", "protocol": "TCP"}]


WRONG = {
    "an unknown value": ("replica=3", "replica"),
    "no replicas": ("replicas=0", "replicas"),
    "a policy that is no YAML file": ("policy.files.notes\\.txt=x", "notes.txt"),
    "a classifier without an image": ("classifierService.enabled=true", "image"),
    "a secret in the settings": ("settings.upstream_key=sk-1", "secretEnv.PENSTOCK_UPSTREAM_KEY"),
    "a secret of one upstream": ("settings.upstreams.a.url=https://a,settings.upstreams.a.key=sk-1", "key_env"),
    "a password in the settings": ("settings.state=redis://:secret@redis:6379/0", "secretEnv.PENSTOCK_STATE"),
    "a worker for each core of the node": ("settings.workers=0", "settings.workers=0"),
    "nothing to scale by": ("autoscaling.enabled=true,autoscaling.inFlight=0", "autoscaling needs one of"),
}


def test_secrets_in_the_settings_are_all_known() -> None:
    helpers = (CHART / "templates" / "_helpers.tpl").read_text()
    secret = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert secret <= set(re.findall(r'"(\w+)"', helpers))


def test_no_number_of_readers_takes_more_memory_than_a_pod_has(documents: list[dict[str, Any]]) -> None:
    """By what `make soak` found: up to a MiB for a reader that does not read, and what a worker takes by itself."""
    limit = workload(documents)["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
    assert limit.endswith("Gi")
    made = settings(documents)
    assert made.workers == 1
    assert 250 + 0.75 * made.max_in_flight < 1024 * int(limit[:-2])


def test_pods_reach_what_the_settings_name() -> None:
    values = "settings.upstream=http://vllm:8000/v1,settings.upstreams.a.url=https://a:8443,settings.upstreams.b.url=http://b"
    made = rendered("--set", f"{values},settings.encoder=http://[::1]:9000")
    rules = only(made, "NetworkPolicy")["spec"]["egress"]
    names, upstreams = rules
    assert {port["port"] for port in upstreams["ports"]} == {80, 443, 8000, 8443, 9000}
    assert {"namespaceSelector": {}} in upstreams["to"]
    assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in names["to"]
    assert {(port["port"], port["protocol"]) for port in names["ports"]} >= {(53, "UDP"), (53, "TCP")}


def test_who_installs_it_is_told_what_no_pod_will_reach() -> None:
    def notes(*more: str) -> str:
        redis = "settings.upstream=https://x/v1,secretEnv.PENSTOCK_STATE.name=r,secretEnv.PENSTOCK_STATE.key=u"
        command = [
            str(helm()),
            "install",
            "penstock",
            str(CHART),
            "--dry-run=client",
            "--set",
            ",".join((redis, *more)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.partition("NOTES:")[2]

    assert "PENSTOCK_STATE NAMES A SERVER" in notes()
    assert "NAMES A SERVER" not in notes("networkPolicy.enabled=false")
    assert "NAMES A SERVER" not in notes("networkPolicy.extraEgress[0].ports[0].port=6379")


def test_what_is_broken_elsewhere_starts_no_pod_again(documents: list[dict[str, Any]]) -> None:
    container = workload(documents)["spec"]["template"]["spec"]["containers"][0]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}


@pytest.mark.parametrize(("value", "words"), WRONG.values(), ids=WRONG.keys())
def test_wrong_values_are_refused(value: str, words: str) -> None:
    done = template("--set", value)
    assert done.returncode != 0
    assert words in done.stderr

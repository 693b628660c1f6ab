"""Reading with kubectl: get, watch, describe, explain, logs, wait."""

import re
from typing import Any

import pytest
import yaml

from sftjob_sandbox.sandbox import Sandbox
from support.clients.http_api import widget
from support.clients.kubectl import Kubectl
from support.clients.namespaced import Namespaced


def _rows(table: str) -> list[list[str]]:
    return [re.split(r" {2,}", line.strip()) for line in table.splitlines()]


def test_get_shows_the_columns_of_the_definition(lab: Namespaced) -> None:
    lab.apply(widget())

    assert _rows(lab("get", "widgets"))[0] == ["NAME", "SIZE", "READY", "AGE"]
    head, (*cells, age) = _rows(lab("get", "wdg", "-o", "wide"))
    assert head == ["NAME", "SIZE", "READY", "COLOR", "AGE"]
    assert cells == ["one", "3", "green"]
    assert re.fullmatch(r"\d+s", age)


def test_get_prints_the_object_in_every_form(lab: Namespaced) -> None:
    lab.apply(widget())

    printed = yaml.safe_load(lab("get", "widget", "one", "-o", "yaml"))

    assert (printed["kind"], printed["spec"]) == ("Widget", {"size": 3, "color": "green"})
    assert lab("get", "widgets", "-o", "jsonpath={.items[*].metadata.name}") == "one"
    assert lab("get", "widgets", "-o", "custom-columns=N:.metadata.name", "--no-headers") == "one\n"


def test_get_all_knows_categories(lab: Namespaced) -> None:
    lab.apply(widget())

    assert _rows(lab("get", "all"))[1][0] == "widget.example.dev/one"


def test_get_reads_all_pages(lab: Namespaced, sandbox: Sandbox) -> None:
    names = [f"w-{number}" for number in range(5)]
    lab.apply(*({**widget(), "metadata": {"name": name}} for name in names))

    done = lab.kubectl.run("-n", lab.namespace, "get", "widgets", "--chunk-size=2", "-o", "name", "-v=6")

    assert done.stdout.split() == [f"widget.example.dev/{name}" for name in names]
    assert done.stderr.count("limit=2") == 3
    assert done.stderr.count("continue=") == 2


def test_the_administrator_may_do_everything_and_a_pod_nothing(lab: Namespaced, sandbox: Sandbox) -> None:
    config = yaml.safe_load(sandbox.kubeconfig.read_text())
    config["users"][0]["user"]["token"] = lab("create", "token", "default").strip()
    file = sandbox.data / f"{lab.namespace}.kubeconfig"
    file.write_text(yaml.safe_dump(config))
    of_pod = Kubectl(file, sandbox.data / "kubectl-cache")

    assert lab("auth", "can-i", "create", "widgets") == "yes\n"
    refused = of_pod.run("-n", lab.namespace, "auth", "can-i", "create", "widgets")
    assert (refused.stdout, refused.returncode) == ("no\n", 1)
    assert of_pod.run("auth", "can-i", "get", "/version").stdout == "yes\n"
    subject = {"user": f"system:serviceaccount:{lab.namespace}:default", "resourceAttributes": {"verb": "list"}}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": subject}
    command = ("create", "--validate=false", "-o", "jsonpath={.status.allowed}", "-f", "-")
    assert lab(*command, text=yaml.safe_dump(review)) == "false"
    assert "the server could not find the requested resource" in lab.refused("auth", "can-i", "--list")


def test_get_watches(lab: Namespaced) -> None:
    lab.apply(widget())

    with lab.start("get", "widgets", "-w") as watch:
        assert watch.stdout is not None
        assert watch.stdout.readline().split() == ["NAME", "SIZE", "READY", "AGE"]
        assert watch.stdout.readline().split()[:2] == ["one", "3"]
        lab("patch", "widget", "one", "--type=merge", "-p", '{"spec": {"size": 4}}')
        assert watch.stdout.readline().split()[:2] == ["one", "4"]
        watch.terminate()


@pytest.mark.parametrize(
    "resource", ["nodes", "namespaces", "configmaps", "serviceaccounts", "crds", "leases", "secrets"]
)
def test_get_shows_built_in_resources(lab: Namespaced, resource: str) -> None:
    done = lab.kubectl.run("-n", lab.namespace, "get", resource, "-o", "wide")

    assert done.returncode == 0
    assert done.stdout.startswith("NAME") or "No resources found" in done.stderr


def test_describe_tells_spec_and_events(lab: Namespaced, pod: Any) -> None:
    lab.apply(pod)
    lab("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/one", "--timeout=20s")

    described = lab("describe", "pod", "one")

    assert re.search(r"Exit Code: +0", described)
    assert re.search(r"Normal +Scheduled .*Successfully assigned", described)


def test_describe_knows_custom_resources(lab: Namespaced) -> None:
    lab.apply(widget())

    described = lab("describe", "widget", "one")

    assert re.search(r"Color: +green", described)
    assert described.rstrip().endswith("<none>"), "no Events"


def test_explain_tells_fields_of_a_custom_resource(lab: Namespaced) -> None:
    spec, size = lab("explain", "widget.spec"), lab("explain", "widget.spec.size")

    assert re.search(r"size\s<integer> -required-\n +How large it is, in millimetres\.", spec)
    assert re.search(r"enum: red, green, blue", spec)
    assert "FIELD: size <integer>" in size


def test_explain_tells_fields_of_a_built_in_kind(lab: Namespaced) -> None:
    assert "Restart policy for all containers" in lab("explain", "pod.spec.restartPolicy")


def test_explain_of_a_field_that_is_not_there_fails(lab: Namespaced) -> None:
    assert lab.refused("explain", "widget.spec.sise") == 'error: field "sise" does not exist'


def test_logs_are_followed_to_the_end(lab: Namespaced, pod: Any) -> None:
    lab.apply(pod)
    lab("wait", "--for=jsonpath={.status.phase}=Running", "pod/one", "--timeout=20s")

    assert lab("logs", "-f", "one") == "one\ntwo\nthree\n"
    assert lab("logs", "one", "--tail=1") == "three\n"


def test_logs_of_an_image_that_is_not_there_are_refused(lab: Namespaced, pod: Any) -> None:
    pod["spec"]["containers"][0]["image"] = "image:2"
    lab.apply(pod)
    path = "{.status.containerStatuses[0].state.waiting.reason}"
    lab("wait", f"--for=jsonpath={path}=ErrImagePull", "pod/one", "--timeout=20s")

    assert lab.refused("logs", "one").startswith(
        'Error from server (BadRequest): container "main" in pod "one" is waiting to start: '
    )


def test_wait_sees_a_condition_come(lab: Namespaced) -> None:
    lab.apply(widget())

    with lab.start("wait", "--for=condition=Ready", "widget/one", "--timeout=20s") as waiting:
        ready = '{"status": {"conditions": [{"type": "Ready", "status": "True"}]}}'
        lab("patch", "widget", "one", "--subresource=status", "--type=merge", "-p", ready)
        assert waiting.wait(20) == 0


def test_wait_sees_an_object_go(lab: Namespaced, pod: Any) -> None:
    pod["spec"]["containers"][0]["command"] = ["sleep", "60"]
    lab.apply(pod)
    lab("wait", "--for=condition=Ready", "pod/one", "--timeout=20s")

    with lab.start("wait", "--for=delete", "pod/one", "--timeout=20s") as waiting:
        lab("delete", "pod", "one", "--wait=false")
        assert waiting.wait(20) == 0


def test_wait_gives_up_in_time(lab: Namespaced) -> None:
    lab.apply(widget())

    refused = lab.refused("wait", "--for=condition=Ready", "widget/one", "--timeout=100ms")

    assert refused == "error: timed out waiting for the condition on widgets/one"


def test_api_resources_lists_what_is_served(lab: Namespaced) -> None:
    lines = lab("api-resources", "--no-headers").splitlines()

    assert ["widgets", "wdg", "example.dev/v1", "true", "Widget"] in [line.split() for line in lines]


def test_what_the_emulator_does_not_do_it_says(lab: Namespaced, pod: Any) -> None:
    pod["spec"]["containers"][0]["command"] = ["sleep", "60"]
    lab.apply(pod)
    lab("wait", "--for=condition=Ready", "pod/one", "--timeout=20s")

    assert "this emulator does not implement pods/exec" in lab.refused("exec", "one", "--", "true")


def test_an_unknown_resource_is_refused(lab: Namespaced) -> None:
    assert lab.refused("get", "gizmos") == 'error: the server doesn\'t have a resource type "gizmos"'

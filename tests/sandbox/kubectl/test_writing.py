"""Writing with kubectl: apply, diff, create, patch, replace, label, delete."""

import json
from typing import Any

import pytest
import yaml

from support.clients.http_api import WIDGETS_FILE, config_map, widget
from support.clients.namespaced import Namespaced


def test_apply_says_created_unchanged_and_configured(lab: Namespaced) -> None:
    said = [lab.apply(widget()), lab.apply(widget()), lab.apply(widget(size=4))]

    assert said == [
        "widget.example.dev/one created\n",
        "widget.example.dev/one unchanged\n",
        "widget.example.dev/one configured\n",
    ]
    assert lab("get", "widget", "one", "-o", "jsonpath={.spec.size} {.spec.color}") == "4 green"


def test_so_it_does_for_built_in_kinds(lab: Namespaced) -> None:
    said = [lab.apply(config_map(a="1")), lab.apply(config_map(a="1")), lab.apply(config_map(b="2"))]

    assert [line.split()[-1] for line in said] == ["created", "unchanged", "configured"]
    assert json.loads(lab("get", "cm", "one", "-o", "jsonpath={.data}")) == {"b": "2"}


def test_apply_changes_the_labels_of_a_pod_and_not_its_lists(lab: Namespaced, pod: Any) -> None:
    lab.apply(pod)
    labeled = {**pod, "metadata": {**pod["metadata"], "labels": {"a": "b"}}}
    (container,) = pod["spec"]["containers"]
    renamed = {**labeled, "spec": {**pod["spec"], "containers": [{**container, "image": "image:2"}]}}

    assert lab.apply(labeled) == "pod/one configured\n"
    assert lab("get", "pods", "-l", "a=b", "-o", "name") == "pod/one\n"
    refused = lab.refused("apply", "-f", "-", obj=renamed)
    assert "$setElementOrder/containers of a strategic merge patch: use kubectl apply --server-side" in refused
    assert lab.apply(renamed, options=("--server-side", "--force-conflicts")) == "pod/one serverside-applied\n"


def test_a_definition_and_its_object_can_be_applied_together(lab: Namespaced) -> None:
    definition = yaml.safe_load(WIDGETS_FILE.read_text())

    assert lab.apply(definition, widget()) == (
        "customresourcedefinition.apiextensions.k8s.io/widgets.example.dev configured\nwidget.example.dev/one created\n"
    )


def test_server_side_apply_conflicts_with_what_another_manager_set(lab: Namespaced) -> None:
    lab.apply(widget(), options=("--server-side", "--field-manager=first"))

    conflict = lab.refused("apply", "--server-side", "--field-manager=second", "-f", "-", obj=widget(size=5))
    forced = lab.apply(widget(size=5), options=("--server-side", "--field-manager=second", "--force-conflicts"))

    assert 'Apply failed with 1 conflict: conflict with "first": .spec.size' in conflict
    assert forced == "widget.example.dev/one serverside-applied\n"


def test_client_side_apply_can_go_over_to_server_side_apply(lab: Namespaced) -> None:
    lab.apply(widget(color="red"))

    lab.apply(widget(size=4), options=("--server-side",))

    assert json.loads(lab("get", "widget", "one", "-o", "jsonpath={.spec}")) == {"size": 4, "color": "green"}


def test_diff_shows_what_apply_would_change(lab: Namespaced) -> None:
    lab.apply(widget())

    done = lab.kubectl.run("-n", lab.namespace, "diff", "-f", "-", text=yaml.safe_dump(widget(size=4)))

    assert done.returncode == 1
    assert "-  size: 3" in done.stdout
    assert "+  size: 4" in done.stdout
    assert lab("get", "widget", "one", "-o", "jsonpath={.spec.size}") == "3"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("configmap", "one", "--from-literal=a=b"), "configmap/one"),
        (("secret", "generic", "one", "--from-literal=a=b"), "secret/one"),
        (("serviceaccount", "one"), "serviceaccount/one"),
    ],
)
def test_create_makes_objects_without_a_file(lab: Namespaced, arguments: tuple[str, ...], what: str) -> None:
    assert lab("create", *arguments) == f"{what} created\n"
    assert lab("get", what, "-o", "name") == f"{what}\n"


def test_create_asks_for_strict_validation(lab: Namespaced) -> None:
    refused = lab.refused("create", "--validate=strict", "-f", "-", obj=widget(sise=1))

    assert refused == (
        'Error from server (BadRequest): error when creating "STDIN": Widget in version "v1" cannot be handled as a '
        'Widget: strict decoding error: unknown field "spec.sise"'
    )


def test_a_warning_is_shown_where_validation_only_warns(lab: Namespaced) -> None:
    text = yaml.safe_dump(widget(sise=1))

    done = lab.kubectl.run("-n", lab.namespace, "create", "--validate=warn", "-f", "-", text=text)

    assert (done.returncode, done.stdout) == (0, "widget.example.dev/one created\n")
    assert 'Warning: unknown field "spec.sise"' in done.stderr


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            {"size": 0},
            (
                'The Widget "one" is invalid: spec.size: Invalid value: 0: '
                "spec.size in body should be greater than or equal to 1"
            ),
        ),
        (
            {"size": 100},
            'The Widget "one" is invalid: spec: Invalid value: "object": a widget of size 100 or more must be red',
        ),
    ],
)
def test_an_invalid_object_is_refused_with_the_sentence_of_a_real_server(
    lab: Namespaced, spec: dict[str, Any], sentence: str
) -> None:
    assert lab.refused("apply", "-f", "-", obj=widget(**spec)) == sentence


@pytest.mark.parametrize(
    ("kind", "patch"),
    [("merge", {"spec": {"size": 7}}), ("json", [{"op": "replace", "path": "/spec/size", "value": 7}])],
)
def test_patch_changes_a_custom_resource(lab: Namespaced, kind: str, patch: object) -> None:
    lab.apply(widget())

    assert (
        lab("patch", "widget", "one", f"--type={kind}", "-p", json.dumps(patch)) == "widget.example.dev/one patched\n"
    )
    assert lab("get", "widget", "one", "-o", "jsonpath={.spec.size}") == "7"


def test_patch_merges_strategically_where_the_kind_is_built_in(lab: Namespaced) -> None:
    lab.apply(config_map(a="1"))

    lab("patch", "configmap", "one", "-p", '{"data": {"b": "2"}}')

    assert json.loads(lab("get", "cm", "one", "-o", "jsonpath={.data}")) == {"a": "1", "b": "2"}


def test_status_is_patched_through_its_subresource(lab: Namespaced) -> None:
    lab.apply(widget())

    lab("patch", "widget", "one", "--subresource=status", "--type=merge", "-p", '{"status": {"phase": "Done"}}')

    assert lab("get", "widget", "one", "--subresource=status", "-o", "jsonpath={.status.phase}") == "Done"


def test_labels_and_annotations_are_set_selected_and_removed(lab: Namespaced) -> None:
    lab.apply(widget())

    assert lab("label", "widget", "one", "a=b") == "widget.example.dev/one labeled\n"
    assert lab("annotate", "widget", "one", "c=d") == "widget.example.dev/one annotated\n"
    assert lab("get", "widgets", "-l", "a in (b, c)", "-o", "name") == "widget.example.dev/one\n"
    assert lab("label", "widget", "one", "a-") == "widget.example.dev/one unlabeled\n"
    assert lab("get", "widgets", "-l", "a", "-o", "name") == ""


def test_replace_needs_the_version_that_it_replaces(lab: Namespaced) -> None:
    lab.apply(widget())
    old = yaml.safe_load(lab("get", "widget", "one", "-o", "yaml"))
    lab("label", "widget", "one", "a=b")

    assert "the object has been modified" in lab.refused("replace", "-f", "-", obj=old)
    assert lab("replace", "-f", "-", text=yaml.safe_dump(widget(size=9))) == "widget.example.dev/one replaced\n"


def test_a_dry_run_on_the_server_changes_nothing(lab: Namespaced) -> None:
    assert lab.apply(widget(), options=("--dry-run=server",)) == "widget.example.dev/one created (server dry run)\n"
    assert lab("get", "widgets", "-o", "name") == ""


def test_delete_waits_until_the_object_is_gone(lab: Namespaced) -> None:
    lab.apply(widget())

    assert lab("delete", "widget", "one") == 'widget.example.dev "one" deleted\n'
    assert lab.refused("get", "widget", "one") == 'Error from server (NotFound): widgets.example.dev "one" not found'
    assert lab.refused("delete", "widget", "one") == 'Error from server (NotFound): widgets.example.dev "one" not found'


def test_delete_takes_dependents_along(lab: Namespaced) -> None:
    lab.apply(widget())
    uid = lab("get", "widget", "one", "-o", "jsonpath={.metadata.uid}")
    child = config_map("child")
    child["metadata"]["ownerReferences"] = [
        {"apiVersion": "example.dev/v1", "kind": "Widget", "name": "one", "uid": uid, "blockOwnerDeletion": True}
    ]
    lab.apply(child)

    lab("delete", "widget", "one", "--cascade=foreground")

    assert lab.refused("get", "configmap", "child") == 'Error from server (NotFound): configmaps "child" not found'


def test_a_namespace_goes_with_all_it_holds(lab: Namespaced) -> None:
    lab.apply(widget(), config_map())

    lab("delete", "namespace", lab.namespace)

    assert lab("get", "widgets", "-o", "name") == ""
    sentence = f'Error from server (NotFound): error when creating "STDIN": namespaces "{lab.namespace}" not found'
    assert lab.refused("create", "-f", "-", obj=widget()) == sentence

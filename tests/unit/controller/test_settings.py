"""Settings from the environment: typed, checked at start, and told by name when they are wrong."""

from pathlib import Path

import kopf
import pytest

from sftjob_operator.settings import Address, NamespacedName, SettingsError, configure, read_settings

NEEDED = {"SFTJOB_TRAINER_IMAGE": "trainer:1", "SFTJOB_PROGRESS_TLS_DIR": "/tls"}


def test_two_settings_are_needed_and_the_rest_has_defaults() -> None:
    settings = read_settings({**NEEDED, "KUBECONFIG": "/kube/config"})
    assert settings.trainer_image == "trainer:1"
    assert settings.gpu_node_label == ("nvidia.com/gpu.present", "true")
    assert settings.progress_tls == Path("/tls")
    assert settings.namespaces == ()
    assert settings.progress_address == Address(host="0.0.0.0", port=8443)
    assert settings.progress_url is None
    assert settings.progress_interval_seconds == 10
    assert settings.watch_silence_seconds == 70
    assert settings.silence_seconds == 90
    assert settings.workers == 16
    assert settings.liveness_address is None
    assert settings.metrics_address is None
    assert settings.metrics_jobs == 200
    assert settings.kubeconfig == Path("/kube/config")


def test_everything_can_be_set() -> None:
    settings = read_settings(
        {
            **NEEDED,
            "SFTJOB_NAMESPACES": "a, b,",
            "SFTJOB_PROGRESS_ADDRESS": "[::1]:0",
            "SFTJOB_PROGRESS_URL": "https://operator.svc:8443/",
            "SFTJOB_PROGRESS_INTERVAL_SECONDS": "2.5",
            "SFTJOB_WORKERS": "4",
            "SFTJOB_LIVENESS_ADDRESS": "0.0.0.0:8080",
            "SFTJOB_METRICS_ADDRESS": "0.0.0.0:8081",
            "SFTJOB_METRICS_JOBS": "0",
            "SFTJOB_GPU_NODE_LABEL": "accelerator",
        }
    )
    assert settings.namespaces == ("a", "b")
    assert settings.progress_address == Address(host="::1", port=0)
    assert settings.progress_url == "https://operator.svc:8443"
    assert settings.progress_interval_seconds == 2.5
    assert settings.workers == 4
    assert settings.liveness_address == Address(host="0.0.0.0", port=8080)
    assert settings.metrics_address == Address(host="0.0.0.0", port=8081)
    assert settings.metrics_jobs == 0
    assert settings.gpu_node_label == ("accelerator", None)


def test_no_node_is_preferred_if_the_label_is_empty() -> None:
    assert read_settings({**NEEDED, "SFTJOB_GPU_NODE_LABEL": ""}).gpu_node_label is None


def test_the_certificate_may_be_kept_in_a_secret() -> None:
    environ = {"SFTJOB_TRAINER_IMAGE": "trainer:1", "SFTJOB_PROGRESS_TLS_SECRET": "system/progress-tls"}
    assert read_settings(environ).progress_tls == NamespacedName(namespace="system", name="progress-tls")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("SFTJOB_TRAINER_IMAGE", "", "SFTJOB_TRAINER_IMAGE is not set"),
        ("SFTJOB_PROGRESS_TLS_DIR", "", "SFTJOB_PROGRESS_TLS_DIR is not set"),
        ("SFTJOB_PROGRESS_TLS_SECRET", "a/b", "SFTJOB_PROGRESS_TLS_SECRET are both set: set one of them"),
        ("SFTJOB_PROGRESS_TLS_SECRET", "tls", "SFTJOB_PROGRESS_TLS_SECRET is 'tls': write NAMESPACE/NAME"),
        ("SFTJOB_METRICS_JOBS", "-1", "SFTJOB_METRICS_JOBS is '-1': write a number of jobs from 0 to 10000"),
        ("SFTJOB_PROGRESS_ADDRESS", "8443", "SFTJOB_PROGRESS_ADDRESS is '8443': write HOST:PORT"),
        ("SFTJOB_PROGRESS_ADDRESS", "h:99999", "write HOST:PORT"),
        ("SFTJOB_PROGRESS_URL", "http://operator:8443", "write https://HOST:PORT"),
        ("SFTJOB_PROGRESS_URL", "https://operator:8443/path", "without a path"),
        ("SFTJOB_PROGRESS_INTERVAL_SECONDS", "0", "seconds from 1 to 3600"),
        ("SFTJOB_PROGRESS_INTERVAL_SECONDS", "nan", "seconds from 1 to 3600"),
        ("SFTJOB_PROGRESS_INTERVAL_SECONDS", "often", "SFTJOB_PROGRESS_INTERVAL_SECONDS is 'often': write a number of"),
        ("SFTJOB_WATCH_SILENCE_SECONDS", "1_0", "SFTJOB_WATCH_SILENCE_SECONDS is '1_0': write a number of seconds"),
        ("SFTJOB_WATCH_SILENCE_SECONDS", "7" * 5000, ": write a number of seconds"),
        ("SFTJOB_WORKERS", "many", "SFTJOB_WORKERS is 'many': write a number from 1 to 256"),
        ("SFTJOB_WORKERS", "1_6", "SFTJOB_WORKERS is '1_6': write a number from 1 to 256"),
        ("SFTJOB_METRICS_JOBS", "all", "SFTJOB_METRICS_JOBS is 'all': write a number of jobs from 0 to 10000"),
        ("SFTJOB_METRICS_JOBS", "\u0663", "write a number of jobs from 0 to 10000"),
        ("SFTJOB_PROGRESS_ADDRESS", "h:\u0663", "write HOST:PORT"),
        ("SFTJOB_PROGRESS_URL", "https://[::1", "SFTJOB_PROGRESS_URL is 'https://[::1': write https://HOST:PORT"),
        ("SFTJOB_PROGRESS_URL", "https://operator:99999", "write https://HOST:PORT"),
        ("SFTJOB_PROGRESS_URL", "https://operator:8443?a=b", "write https://HOST:PORT"),
        ("SFTJOB_PROGRESS_URL", "https://me:word@operator:8443", "write https://HOST:PORT"),
        ("SFTJOB_GPU_NODE_LABEL", "a b", "SFTJOB_GPU_NODE_LABEL is 'a b': write KEY=VALUE or KEY of a node label"),
        ("SFTJOB_WORKERS", "0", "a number from 1 to 256"),
        ("SFTJOB_LIVENESS_ADDRESS", "localhost", "SFTJOB_LIVENESS_ADDRESS is 'localhost': write HOST:PORT"),
    ],
)
def test_a_wrong_setting_is_named_with_what_to_write(name: str, value: str, complaint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings({**NEEDED, name: value})
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://operator.svc", "https://operator:8443", "https://[::1]:8443", "HTTPS://Operator:1"]
)
def test_an_endpoint_may_be_any_host_with_or_without_a_port(url: str) -> None:
    assert read_settings({**NEEDED, "SFTJOB_PROGRESS_URL": f"{url}/"}).progress_url == url


@pytest.mark.parametrize("text", ["0.0.0.0:8080", "[::]:8080"])
def test_an_address_reads_as_it_was_written(text: str) -> None:
    settings = read_settings({**NEEDED, "SFTJOB_LIVENESS_ADDRESS": text})
    assert str(settings.liveness_address) == text


def test_in_a_cluster_no_kubeconfig_is_needed() -> None:
    assert read_settings({**NEEDED, "KUBERNETES_SERVICE_HOST": "10.0.0.1"}).kubeconfig is None
    assert read_settings(NEEDED).kubeconfig == Path.home() / ".kube" / "config"


def test_kopf_is_told_to_watch_our_pods_only_and_to_write_nothing() -> None:
    settings = kopf.OperatorSettings()
    configure(settings, 70)
    assert settings.posting.enabled is False
    assert settings.peering.standalone is True
    assert settings.scanning.disabled is True
    assert settings.watching.server_timeout == 300
    assert settings.watching.inactivity_timeout == 70
    assert settings.watching.label_selectors["v1/pods"] == "sftjob.dev/job"
    assert settings.persistence.diffbase_storage.build(body=kopf.Body({"spec": {"a": 1}})) == {}


def test_kopf_retries_for_ever() -> None:
    settings = kopf.OperatorSettings()
    configure(settings, 70)
    for _ in range(2):  # it is iterated anew for every request
        waits = iter(settings.networking.error_backoffs)
        assert [next(waits) for _ in range(12)] == [1, 1, 2, 3, 5, 8, 13, 21, 30, 30, 30, 30]

"""Events about a job."""

from sftjob_operator.effects.events import event_body
from support.fakes.fake_cluster import moment
from support.jobs.builders import UID, a_job


def test_an_event_is_about_the_job_and_says_who_reports_it() -> None:
    event = event_body(a_job().body(), "Warning", "Killed", "Signal 9 ended the trainer.", moment(0))
    assert event["involvedObject"]["uid"] == UID
    assert event["involvedObject"]["kind"] == "SFTJob"
    assert (event["type"], event["reason"]) == ("Warning", "Killed")
    assert event["source"] == {"component": "sftjob-operator"}
    assert event["metadata"]["namespace"] == "team"


def test_the_same_word_twice_has_the_same_name_and_another_word_another() -> None:
    names = [
        event_body(a_job().body(), "Normal", "Completed", message, moment(seconds))["metadata"]["name"]
        for message, seconds in [("done", 0), ("done", 9), ("other", 0)]
    ]
    assert names[0] == names[1] != names[2]


def test_a_long_message_is_cut_to_what_the_api_server_takes() -> None:
    assert len(event_body(a_job().body(), "Normal", "R", "x" * 5000, moment(0))["message"]) == 1024

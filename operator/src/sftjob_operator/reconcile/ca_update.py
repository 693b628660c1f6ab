"""Publish a changed CA of the progress endpoint to the Pods of a running attempt."""

from sftjob_contract.names import CA_KEY, Stage
from sftjob_operator.reconcile.observe.observed import Publish
from sftjob_operator.reconcile.snapshot import Snapshot
from sftjob_operator.render import config_map_name


def ca_updates(snapshot: Snapshot, known_ca: str | None) -> tuple[Publish, ...]:
    """Update the CA in the ConfigMap of a job that trains, unless it is known to be current.

    The run config does not change: it belongs to the image of the attempt.
    """
    ca = snapshot.settings.render.progress_ca
    if ca is None or ca == known_ca or snapshot.live(Stage.TRAIN) is None:
        return ()
    return (Publish(name=config_map_name(snapshot.job), data={CA_KEY: ca}),)

"""What the Pods of a running attempt are to see of a change in the operator: the CA of the progress endpoint."""

from sftjob_contract.names import CA_KEY, Stage
from sftjob_operator.reconcile.observed import Publish
from sftjob_operator.reconcile.situation import Situation
from sftjob_operator.render import config_map_name


def published(at: Situation, known_ca: str | None) -> tuple[Publish, ...]:
    """Bring the CA in the ConfigMap of a job that trains up to date, unless it is known to be.

    The run config stays as it is: it belongs to the image of the attempt.
    """
    ca = at.settings.render.progress_ca
    if ca is None or ca == known_ca or at.live(Stage.TRAIN) is None:
        return ()
    return (Publish(name=config_map_name(at.job), data={CA_KEY: ca}),)

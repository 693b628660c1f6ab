"""The local stack with a witness between operator and API server that changes nothing."""

from sftjob_dev.stack import Stack
from support.stacks.hostile_stack import HostileStack


class RecordedStack(HostileStack):
    """`api.asked` has every request of the operator."""

    def operator_settings(self) -> dict[str, str]:
        """See Stack."""
        return {**Stack.operator_settings(self), "KUBECONFIG": str(self.api.kubeconfig)}

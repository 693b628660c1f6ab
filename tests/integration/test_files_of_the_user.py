"""A chat template and a Python function from ConfigMaps: Prepare reads both, and what they make is trained on."""

import pytest
import yaml

from support.jobs.small_jobs import a_small_job, condition, phase, reach, sentences, write_rows
from support.stacks.running_stack import Lab

pytestmark = pytest.mark.slow
FILES = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "files"},
    "data": {
        "rows.py": """
def to_messages(row):
    return {"messages": [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": row["said"]}]}
""",
        "short.jinja": """
{%- for message in messages -%}
{{ message.role }}: {% if message.role == 'assistant' %}
{%- generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ message.content }}{% endif %}
{% endfor -%}
{% if add_generation_prompt %}assistant: {% endif %}""",
    },
}


def test_the_users_own_template_and_function_are_used(lab: Lab) -> None:
    lab.kubectl("apply", "-f", "-", text=yaml.safe_dump(FILES))
    write_rows(lab.input / "said.jsonl", [{"said": text} for text in sentences(40)])
    function = {"configMapKeyRef": {"name": "files", "key": "rows.py"}, "name": "to_messages"}
    job = (
        a_small_job("own-files", data="said.jsonl")
        .set("dataset.preprocessing", {"function": function})
        .set("model.trustRemoteCode", True)
        .set("model.chatTemplate", {"configMapKeyRef": {"name": "files", "key": "short.jinja"}})
        .training(max_steps=5, loss_on="assistant")
    )
    lab.apply(job)
    status = reach(lab.cluster, "own-files", phase("Succeeded", "Failed"))
    assert status["phase"] == "Succeeded", condition(status, "Succeeded")
    report = lab.kubectl("logs", "own-files-prepare-1")
    assert "user: Which?" in report
    template = (lab.stack.volume("own-files") / "output" / "model" / "chat_template.jinja").read_text(encoding="utf-8")
    assert "add_generation_prompt" in template

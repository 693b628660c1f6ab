"""Rules in CustomResourceDefinitions: they compile, are cheap enough, and use only what this server evaluates."""

from typing import Any

import pytest

from support.jobs.widgets import Object, definition, definition_refusals, spec_refusals

INTEGER, STRING = {"type": "integer"}, {"type": "string"}
SHORT = {"type": "string", "maxLength": 20}


def ruled(rule: str, *, extra: Object | None = None, **properties: Object) -> Object:
    """An object with these fields and one rule."""
    declared = {"rule": rule, **(extra or {})}
    return {"type": "object", "properties": properties, "x-kubernetes-validations": [declared]}


def listed(items: Object, **limits: int) -> Object:
    return {"type": "array", "items": items, **limits}


RULE = "~.x-kubernetes-validations[0]"


def shown(rule: str) -> str:
    """A rule without anything else, as Go prints it."""
    return (
        f'apiextensions.ValidationRule{{Rule:"{rule}", Message:"", MessageExpression:"",'
        ' Reason:(*apiextensions.FieldValueErrorReason)(nil), FieldPath:"", OptionalOldSelf:(*bool)(nil)}'
    )


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("self.b > 0", "undefined field 'b'"),
        ("self.a >", "Syntax error: mismatched input '<EOF>' expecting"),
        ("self.a == 'x'", "found no matching overload for '_==_' applied to '(int, string)'"),
        ("thing > 0", "undeclared reference to 'thing' (in container '')"),
        ("self.text.reverse() == 'x'", "undeclared reference to 'reverse'"),
    ],
)
def test_a_rule_that_does_not_compile_is_refused_with_the_compilers_words(rule: str, said: str) -> None:
    (line,) = spec_refusals(ruled(rule, a=INTEGER, text=SHORT))
    assert line.startswith(f"FieldValueInvalid {RULE}.rule: Invalid value: {shown(rule)}: compilation failed: ERROR: ")
    assert said in line


def test_a_rule_yields_a_boolean() -> None:
    assert spec_refusals(ruled("self.a + 1", a=INTEGER)) == [
        f"FieldValueInvalid {RULE}.rule: Invalid value: {shown('self.a + 1')}: cel expression must evaluate to a bool"
    ]


@pytest.mark.parametrize(
    "rule",
    [
        "isURL(self.text)",
        "url(self.text).getHost() == 'x'",
        "quantity(self.text).isGreaterThan(quantity('1'))",
        "isIP(self.text)",
        "ip(self.text).family() == 4",
        "cidr('10.0.0.0/8').containsIP(self.text)",
        "self.list.sum() > 3",
        "self.list.isSorted()",
        "self.list.indexOf('x') == 0",
        "self.text.find('[0-9]+') == '1'",
        "authorizer.group('').resource('pods').check('get').allowed()",
        "format.dns1123Label().validate(self.text).hasValue()",
        "semver('1.2.3').major() == 1",
        "self.text.split('/').size() == 2",
        "self.text.lowerAscii() == 'a'",
        "self.text.replace('a', 'b') == 'b'",
        "self.list.join(',') == 'a'",
    ],
)
def test_functions_without_a_known_cost_are_refused_here(rule: str) -> None:
    (line,) = spec_refusals(ruled(rule, text=SHORT, list=listed(SHORT, maxItems=3)))
    assert line.startswith(f"FieldValueInvalid {RULE}.rule: Invalid value: ")


def test_rules_about_times_are_refused_here() -> None:
    (line,) = spec_refusals(ruled("self.a == self.a", a={**SHORT, "format": "date-time"}))
    assert line.endswith("field 'a' is a date-time; this local server does not evaluate such rules")


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"message": " "}, 'FieldValueInvalid ~.message: Invalid value: " ": message must be non-empty if specified'),
        (
            {"message": "a\nb"},
            r'FieldValueInvalid ~.message: Invalid value: "a\nb": message must not contain line breaks',
        ),
        ({"rule": " "}, "FieldValueRequired ~.rule: Required value: rule is not specified"),
        (
            {"rule": "self.a > 0 &&\nself.a < 5"},
            "FieldValueRequired ~.message: Required value: message must be specified if rule contains line breaks",
        ),
        (
            {"reason": "Whim"},
            (
                'FieldValueNotSupported ~.reason: Unsupported value: "Whim": supported values: "FieldValueDuplicate",'
                ' "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"'
            ),
        ),
        ({"fieldPath": ".b"}, 'FieldValueInvalid ~.fieldPath: Invalid value: ".b": fieldPath must be a valid path'),
        ({"fieldPath": ".a"}, None),
        (
            {"messageExpression": "'m'"},
            (
                "FieldValueForbidden ~.messageExpression: Forbidden: this local server does not support the field:"
                " write a message"
            ),
        ),
        (
            {"optionalOldSelf": True},
            "FieldValueInvalid ~.optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule",
        ),
    ],
)
def test_what_is_declared_beside_a_rule(extra: Object, said: str | None) -> None:
    lines = spec_refusals(ruled("self.a > 0", extra=extra, a=INTEGER))
    assert lines == ([said.replace("~", RULE)] if said else [])


def test_items_that_cannot_be_matched_have_no_old_self() -> None:
    item = {**INTEGER, "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}
    (line,) = spec_refusals({"type": "object", "properties": {"list": listed(item, maxItems=3)}})
    where = "~.properties[list].items.x-kubernetes-validations[0].rule"
    assert line == (
        f'FieldValueInvalid {where}: Invalid value: "self >= oldSelf": oldSelf cannot be used on the uncorrelatable'
        " portion of the schema within spec.validation.openAPIV3Schema.properties[spec].properties[list]"
    ).replace("spec.validation.openAPIV3Schema.properties[spec]", "~")


BUDGET = (
    " (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are"
    " declared)"
)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (ruled("self.list.all(x, x.size() < 5)", list=listed(SHORT)), None),
        (
            ruled("self.list.all(x, self.list.all(y, x == y))", list=listed(STRING)),
            "estimated rule cost exceeds budget by factor of more than 100x",
        ),
        (ruled("self.list.all(x, self.list.all(y, x == y))", list=listed(SHORT, maxItems=20)), None),
        (ruled("self.text.contains('x')", text=STRING), None),
        (
            {"type": "object", "properties": {"list": listed(ruled("self.text.contains(self.text)", text=STRING))}},
            "estimated rule cost exceeds budget by factor of more than 100x",
        ),
    ],
)
def test_rules_over_unbounded_values_cost_too_much(schema: Object, said: str | None) -> None:
    lines = spec_refusals(schema)
    assert [line.endswith(f".rule: Forbidden: {said}{BUDGET}") for line in lines][:1] == ([True] if said else [])


def test_many_affordable_rules_can_cost_too_much_together() -> None:
    rules = [{"rule": f"self.list.all(x, x.contains('{number}'))"} for number in range(3)]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"list": listed({"type": "string", "maxLength": 1000}, maxItems=10000)},
        "x-kubernetes-validations": rules,
    }
    one = {**schema, "x-kubernetes-validations": rules[:1]}
    assert spec_refusals(one) == []
    many = {**schema, "x-kubernetes-validations": rules * 20}
    lines = spec_refusals(many)
    assert "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema" in lines[0]
    assert "estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of" in lines[-1]


def test_rules_are_not_compiled_while_the_schema_is_not_structural() -> None:
    (line,) = definition_refusals(definition(ruled("nonsense(", a={})))
    assert line.endswith("properties[a].type: Required value: must not be empty for specified object fields")

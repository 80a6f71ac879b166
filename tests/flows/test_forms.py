"""The form that the Prefect UI makes of each flow."""

from pkgutil import resolve_name

import pytest
from prefect import Flow
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema

from deployments.definitions import DEPLOYMENTS
from flows.compare import compare
from flows.monitor import monitor
from flows.propose import propose
from flows.retrain import retrain
from flows.rollback import rollback


@pytest.mark.parametrize("flow", [retrain, monitor, propose, compare, rollback], ids=lambda flow: flow.name)
def test_every_parameter_of_a_flow_is_described_in_its_form(flow: Flow) -> None:
    properties = parameter_schema(flow).properties
    assert properties
    assert not [name for name, shown in properties.items() if not shown.get("description")]


def test_the_triggers_are_a_choice_and_another_one_is_refused() -> None:
    assert "drift" in parameter_schema(retrain).properties["trigger"]["enum"]
    with pytest.raises(ParameterTypeError, match="trigger"):
        retrain.validate_parameters({"trigger": "full moon"})


def test_no_form_takes_an_approval_so_that_whoever_starts_a_run_has_not_approved_it() -> None:
    for deployment in DEPLOYMENTS:
        flow = resolve_name(deployment.flow)
        assert isinstance(flow, Flow)
        schema = parameter_schema(flow)
        assert not {"approval", "approved", "approver"} & set(schema.properties)
        assert "Approval" not in schema.definitions

"""The form that the Prefect UI makes of each flow."""

import pytest
from prefect import Flow
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema

from flows.compare import compare
from flows.promote import promote
from flows.retrain import retrain
from flows.rollback import rollback


@pytest.mark.parametrize("flow", [retrain, promote, compare, rollback], ids=lambda flow: flow.name)
def test_every_parameter_of_a_flow_is_described_in_its_form(flow: Flow) -> None:
    properties = parameter_schema(flow).properties
    assert properties
    assert not [name for name, shown in properties.items() if not shown.get("description")]


def test_the_triggers_are_a_choice_and_another_one_is_refused() -> None:
    assert "drift" in parameter_schema(retrain).properties["trigger"]["enum"]
    with pytest.raises(ParameterTypeError, match="trigger"):
        retrain.validate_parameters({"trigger": "full moon"})

"""What /openapi.json says is what the routes do: requests drawn from it, and from outside it.

The default suite draws a few for every route; ``pytest -m soak`` draws many.
"""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from servers import until

from weft.server.app import create_app
from weft.server.engine import EngineOptions
from weft.server.models import Models

load_all_checks()
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
FEW, MANY = (
    settings(max_examples=count, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    for count in (15, 2_000)
)


# The description does not depend on the model, which need not be there for it.
schema = schemathesis.openapi.from_dict(create_app(Models({"tiny": EngineOptions("tiny")})).openapi())


@schema.parametrize()
@FEW
def test_the_routes_do_what_they_say(case, server):
    case.call_and_validate(base_url=server.address, checks=CHECKS, timeout=60)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@schema.parametrize()
@MANY
def test_the_routes_do_what_they_say_at_length(case, server):
    case.call_and_validate(base_url=server.address, checks=CHECKS, timeout=60)


def test_nothing_is_left_of_it(server):
    until(server.idle)
    assert server.engine().restarts == 0

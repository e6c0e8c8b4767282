"""The planner: which parallel technique fits a model and the machines? Pure, apart from tracing and
calibration.

In the order of the work: :mod:`.job` (what is trained), :mod:`.hardware`, :mod:`.profiles`,
:mod:`.machines` (on what), :mod:`.local` (one rank's share), :mod:`.activations`, :mod:`.trace`,
:mod:`.traced`, :mod:`.witness`, :mod:`.memory` (bytes), :mod:`.work`, :mod:`.rates`, :mod:`.collectives`,
:mod:`.overlap` (seconds), :mod:`.in_flight`, :mod:`.simulate` (the pipeline), :mod:`.estimate` (one
layout), :mod:`.search` (all), :mod:`.change` (what would fit), :mod:`.choice` (the answer),
:mod:`.explain`, :mod:`.report`, :mod:`.picture` (for people), :mod:`.probe`, :mod:`.calibrate`,
:mod:`.calibration` (this machine, measured), :mod:`.record` (its own error).
"""

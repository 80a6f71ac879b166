"""The domain of feedloop: values and pure functions, no orchestration, no registry, no clock.

Where to look first:

- ``values``        the two frozen bases, ``Value`` (results) and ``Knobs`` (settings)
- ``results``       what travels between tasks: Snapshot, Split, Training, Comparison, Verdict, …
- ``errors``        the exception tree
- ``features``      which columns a model reads: roles, features, history; light, travels in the bundle
- ``interactions``  checks of an interaction log
- ``history``       point-in-time features as Ibis expressions
- ``fingerprint``   a digest of rows by their content
- ``split``         train, validation and holdout by time; refuses leakage
- ``encoding``      vocabularies and scalers, fitted on train only
- ``batches``       columns to tensors to batches
- ``models``        the list of architectures
- ``module``        Lightning glue;  ``training`` fits it (``optimizer``, ``early_stopping``, ``warm_start``);
  ``bundle`` saves, verifies and scores it
- ``metrics``       AUC, GAUC, log loss, calibration as functions of arrays; ``toplists``, ``placements``
- ``scored``        holdout rows and both models' scores;  ``comparison`` measures them, with standard errors from
  ``influence`` and ``clusters``;  ``pictures`` adds what is only shown
- ``fairness``      the contract that a comparison must keep
- ``guardrails``    the ordered list of rules that can stop a promotion
- ``verdict``       PROMOTE, A_B_TEST or REJECT, with the reason
- ``gate_check``    what the thresholds do on simulated models; ``gate_world`` simulates them
- ``approval``      whose approval counts;  ``questions`` sums answers up;  ``retention`` what may be deleted
- ``reference``     what the champion learnt from, frozen (``bins``, ``counts``, ``sketches``);  ``data_quality``,
  ``drift`` (``distances``, ``levels``) and ``performance`` hold a day against it;  ``triggers`` is the arbiter
- ``assignment``    who gets which model (``hashing``, ``assignment_sql``);  ``rollout``, ``strategies`` and ``steps``
  move it on (``rollout_checks``, ``health``, ``shadow``);  ``experiment`` reads an A/B test (``ratios``,
  ``sequential``, ``planning``, ``proportions``, ``interleaving``)
- ``world``         the seeded sample feed

Nothing is re-exported here, so that importing one module costs only that module.
"""

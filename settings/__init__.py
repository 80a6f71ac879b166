"""The only reader of ``feedloop.toml`` and of the environment.

``loading.load()`` gives one frozen ``Settings``; the knobs of an algorithm live beside it in ``ranking``,
the knobs of an effect (data, registry, approval) live in ``effects``.
"""

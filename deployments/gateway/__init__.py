"""The gateway: answers ranking requests with the champion, and with a challenger where a rollout says so.

``app`` puts it together; ``answering`` is the walk of one request; ``watching`` follows the ledger.
"""

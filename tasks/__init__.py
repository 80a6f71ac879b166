"""Effects, thin: each module is one kind of work that a flow orders; the libraries behind it are in ``adapters``."""

"""Data sets that the project makes itself, one module a kind: ``synthetic://<kind>/<split>?seed=n``.

Each exists so that an example runs anywhere, offline, without anyone's licence. The wording of one
split stands in no other. They are for learning the tool, not for judging models: published figures
in the guides are of public data.
"""

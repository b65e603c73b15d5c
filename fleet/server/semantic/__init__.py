"""The fleet as linked data: devices and models described in RDF, found by what they are, and matched to each other.

RDF is a projection: the registry's SQL is the truth, and `projection.Projection` can be rebuilt from it at any time.
Nothing here opens a connection, except to an endpoint that the operator names with `--sparql`.
"""

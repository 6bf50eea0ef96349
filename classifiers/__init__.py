"""What is in this text?

The lowest of three floors (proxy -> policies -> classifiers). A classifier takes messages and returns findings;
the panel asks many at once under deadlines and turns every fault into a Failure; the catalog makes them by kind.
Nothing here knows of HTTP, policies or metrics.
"""

"""An offline NZ TAB API: one made-up racing day, alive with a clock, with faults on demand.

Nothing of the rest of the package is imported, so that the simulator cannot agree with it by construction.

    names, day, field, market                          what is made up: words, races, runners, money and prices
    runners, tracker, tote_pools, results              the parts of an answer
    event, meetings                                    the two answers
    silks, vision                                      images of silks, and an API that describes images
    clock, faults, answers, control, server, running   serving them, and breaking them on request
"""

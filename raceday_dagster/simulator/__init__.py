"""An offline NZ TAB API: one made-up racing day, alive with a clock, with faults on demand.

Belongs here: everything that invents a racing day or serves it over HTTP on this machine.
Does not belong here: anything that reads, computes or stores what the API says. Nothing of the
rest of the package is imported, so that the simulator cannot agree with it by construction.

    clock        simulated time
    names        invented words
    programme    which meetings there are, and how their races lie in the day
    raceday      the day: meetings and races
    fields       who runs in a race
    market       how the money and the prices move
    lifecycle    what stage a race is in at an instant, and who won
    tracker, pools, dividends, form, payloads, listings    the wire format
    silks, vision    the images of silks, and an API that describes images
    faults, sabotage, delivery, control, server, running   serving it, and spoiling it on request
"""

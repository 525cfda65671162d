"""What `bench_answers.py` measures: disturbed speech that is made from clean speech, and the questions asked about it.

The generators are pure: they take speech and a random generator, and return a `Sound`. Only `judge` knows the service.
"""

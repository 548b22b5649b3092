"""What `python -m minifcn.benchmark` does: cases, the libraries that compute them, measuring, and reporting.

cases.py        what is measured, how many operations it takes, and the arrays that go in
side.py         what every library offers here; minifcn_side.py, pytorch_side.py, chainer_side.py
measuring.py    rounds in which the libraries take turns, and the machine's matrix-product peak
memory.py       peak memory of one library in a process of its own
suite.py        all of it, into one report; report.py and chart.py show it
"""

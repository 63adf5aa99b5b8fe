"""TorchScript scripts, run in engine processes of their own: queues, workers and the protocol with them.

`engine` is the entry point; docs/adr/0009, 0010, 0045 and 0052 give the reasons for the design. No framework is
imported here.
"""

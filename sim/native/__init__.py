"""The native engine: the card's Verilog in a shared library, with the host and the wire in C++."""

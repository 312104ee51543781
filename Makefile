# What the targets leave is listed in README.md. Everything they need is set up first, into .venv,
# by whichever runs first; a second run sets nothing up.

PYTHON ?= python3

# A card is a preset with fields of hw/config.py overridden: CONFIG=full VFS=64 SET="queue_pairs=4".
CONFIG ?= full
VFS ?=
SET ?=
# Of everything random; empty for the fixed one.
SEED ?=
CARD = $(CONFIG) $(foreach pair,$(if $(VFS),vfs=$(VFS)) $(SET),--set $(pair))

READY := .venv/ready
BIN := .venv/bin
RUN := $(BIN)/python

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help set-up sim bench soak fuzz cosim test formal conformance lint verilog synth docs lock system-deps clean

help:
	@sed -n 's/^## *//p' $(MAKEFILE_LIST)

$(READY): requirements.lock pyproject.toml sim/bootstrap.py sim/toolchain.py
	@$(PYTHON) sim/bootstrap.py

## make set-up        the environment alone (every other target does this first)
set-up: $(READY)
	@:

## make sim           the demonstration: build/sim/report.html, report.json, wire.pcap
sim: $(READY)
	$(BIN)/ringlet sim $(CARD) $(if $(SEED),--seed $(SEED))

## make test          the whole regression; TESTS=path, ARGS="-k x", SEED=n
TESTS ?=
ARGS ?=
WORKERS ?= 2
test: $(READY)
	RINGLET_SEED=$(SEED) $(RUN) -m pytest -n $(WORKERS) $(ARGS) $(TESTS)

## make formal        proofs of single blocks by a solver: build/formal; PROOFS="name ...",
##                    FAULTS=1: that each proof finds the faults it is there for
PROOFS ?=
FAULTS ?=
formal: $(READY)
	$(RUN) -m tests.formal$(if $(FAULTS),.faults) $(PROOFS)

## make conformance   which of virtio's clauses the tests show: build/conformance
conformance: $(READY)
	$(RUN) -m pytest -n $(WORKERS) -m virtio --ledger build/conformance $(ARGS)

## make lint          ruff, mypy strict, the hardware's own rules, Verilator's lint of the card
lint: $(READY)
	$(RUN) -m ruff check hw sim sw_driver tb tests
	$(RUN) -m mypy
	$(RUN) -m sim.lint

## make bench         throughput and latency beside what is possible: build/bench/report.html;
##                    QUICK=1, FULL=1, COMPARE=old.json, SEED=n
QUICK ?=
FULL ?=
COMPARE ?=
bench: $(READY)
	$(BIN)/ringlet bench $(CARD) $(if $(QUICK),--quick) $(if $(FULL),--full) \
		$(if $(COMPARE),--compare $(COMPARE)) $(if $(SEED),--seed $(SEED))

## make soak          random traffic, stalls and resets; PACKETS=n, SEED=n, JOBS=n: build/soak
PACKETS ?= 100000
soak: $(READY)
	$(BIN)/ringlet soak $(CARD) --packets $(PACKETS) $(if $(SEED),--seed $(SEED)) \
	  $(if $(JOBS),--jobs $(JOBS))

## make fuzz          hostile rings beside honest queues; CASES=n, SEED=n, FIRST=n, JOBS=n
##                    (JOBS: processes, else one for each core): build/fuzz
CASES ?= 80
FIRST ?= 0
fuzz: $(READY)
	$(BIN)/ringlet fuzz $(CARD) --cases $(CASES) --first $(FIRST) $(if $(SEED),--seed $(SEED)) \
	  $(if $(JOBS),--jobs $(JOBS))

## make cosim         unmodified drivers in real guests: build/cosim; FULL=1, TESTS=path, SEED=n
##                    (root on Debian; programs come from its packages the first time)
cosim: $(READY)
	RINGLET_SEED=$(SEED) $(RUN) -m tests.cosim $(if $(FULL),--full) $(ARGS) $(TESTS)

## make verilog       the card's Verilog; CONFIG=full VFS=n SET="field=number ..."
verilog: $(READY)
	$(RUN) -m hw.verilog $(CARD)

## make synth         its size and depth of logic, by room; the same variables, or
##                    BLOCK="hw.stream.register:StreamRegister(64)" for one component
BLOCK ?=
synth: $(READY)
	$(BIN)/ringlet synth $(if $(BLOCK),--block '$(BLOCK)',$(CARD))

## make docs          the pages of docs/ that are made from data
docs: $(READY)
	$(RUN) -m sim.docs

## make lock          renew requirements.lock from pyproject.toml
lock:
	$(PYTHON) sim/lock.py

## make system-deps   install what only Debian has: Icarus Verilog, ip (needs root)
system-deps:
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends iverilog iproute2

## make clean         remove everything generated except the environment
clean:
	rm -rf build

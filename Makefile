# FreeAnchor: every table and figure of the paper, one target each. `make` alone lists the targets.

# What may be set: on the command line, as in `make table2 PROFILE=photos DATA=doors`, or in the environment.
PROFILE ?= shapes#    size of everything: shapes, photos (with DATA=DIR), coco, coco-mmdetection or mini
DATA ?=#              folder of your own images: train.json, val.json, images/; for coco, where COCO lies
CLASSES ?=#           of your own images: own, supercategory or one
BACKBONE ?=#          for your own images: resnet18, … or one of timm's with feature maps
BACKBONE_WEIGHTS ?=#  file of ImageNet weights for it, instead of the published ones
CREDIT ?=#            whose images they are, and under which licence: shown beside them
IMAGES ?= shown#      hidden: keep them out of reports
SEEDS ?= 1#           seeds per run
JOBS ?= 2#            runs side by side
DEVICE ?= cpu#        cpu, cuda, cuda:1 …
PROCESSES ?= 1#       processes that share a training, one per GPU: started by torchrun
BATCH ?=#             images per step instead of the recipe's; rate and schedule follow (linear rule)
PRECISION ?= auto#    of the network: auto, float32, bfloat16 or float16; losses are always float32
THREADS ?=#           per process; by default the cores are shared out
WORKERS ?= 0#         further processes that load images, for each of those
SPLITS ?= train,val#  of COCO, those that make data fetches; val alone is enough for make zoo
GT ?=#                COCO json whose objects make bench evaluates, instead of generated ones
PYTHON ?= python3#    Python, 3.11 or later, that .venv is made from

SETTINGS := PROFILE DATA CLASSES BACKBONE BACKBONE_WEIGHTS CREDIT IMAGES SEEDS JOBS \
	DEVICE PROCESSES BATCH PRECISION THREADS WORKERS SPLITS GT PYTHON

.DEFAULT_GOAL := help
include make/reports.mk make/machinery.mk

##@ First
.PHONY: demo test
demo: ## train both detectors on synthetic images, then every table and figure: minutes on two CPU cores
	+@$(call up_to_date_or,demo)

test: $(READY) ## run the tests
	$(VENV)/bin/python -m pytest -n $(strip $(JOBS))

##@ Everyday
.PHONY: help setup data anchors paper zoo report explorer
help: ## list the targets and the variables
	@$(HELP)

setup: $(READY) ## create .venv from requirements.lock

data: $(READY) ## generate the synthetic images, or fetch COCO 2017 (PROFILE=coco, 20 GB): into data/ or DATA
	@$(FREEANCHOR) data $(if $(filter coco coco-mmdetection,$(PROFILE)),coco $(or $(QUOTED_DATA),data/coco) \
		--splits $(call quoted_word,SPLITS),draw freeanchor-small-s0 $(WHERE))

anchors: $(READY) ## how anchor grids fit your objects, and which to take (DATA=DIR): a table, and anchors/fit.png and .csv
	@$(FREEANCHOR) anchors $(QUOTED_DATA) --csv anchors/fit.csv --figure anchors/fit.png

paper: ## every run of the paper at this profile's size, then every table and figure
	+@$(call up_to_date_or,paper)

zoo: ## fetch published RetinaNets and FreeAnchors and evaluate them into the tables (PROFILE=coco)
	@$(MAKE) CHOSEN=zoo $(PAGE) && echo "zoo: done, open "$(PAGE)

report: ## the page that shows all reports

explorer: $(READY) ## a page to see which anchors learn which object, over training: reports/.../explorer.html
	@$(FREEANCHOR) explore $(WHERE) $(HOW)

##@ Reports
# One target per report, in make/reports.mk.

##@ Upkeep
.PHONY: pack unpack notebooks documents pooled bench check clean purge
pack: $(READY) ## keep the measured runs, without weights, beside their reports: reports/…/kept/
	@$(FREEANCHOR) pack $(WHERE)

unpack: $(READY) ## put kept runs back into runs/: tables and figures again without training
	@$(FREEANCHOR) unpack $(WHERE)

pooled: $(READY) ## the claims over all sets of real images together: reports/photos/pooled.md and index.html
	$(VENV)/bin/python -m experiments.reports.pooled --reports reports/photos

bench: $(READY) ## speed and memory against peers: reports/benchmarks.md
	$(VENV)/bin/python -m experiments.bench.main --device $(call quoted_word,DEVICE)$(if $(GT), --gt $(call quoted_path,$(GT)))

notebooks: $(READY) ## execute the notebooks into reports/notebooks/*.html
	$(VENV)/bin/python -m experiments.reports.documents --notebooks

documents: $(READY) ## fill in the tables of README.md, docs/ and others from the reports, and make/reports.mk
	$(VENV)/bin/python -m experiments.reports.documents

check: $(READY) test ## the tests, ruff, mypy, and whether the documents' tables are the reports'
	$(VENV)/bin/python -m experiments.reports.documents --check
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy freeanchor analysis experiments examples

clean: ## remove caches and generated rules; runs, data and reports stay
	rm -rf .make .pytest_cache .hypothesis .ruff_cache .mypy_cache build *.egg-info
	find freeanchor analysis experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +

purge: clean ## remove the runs, the synthetic images and .venv as well
	rm -rf runs data/shapes-* data/.shapes-* data/example $(VENV)
	-@rmdir data 2>/dev/null || true

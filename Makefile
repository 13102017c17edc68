# FreeAnchor: every table and figure of the paper, one target each. `make` alone lists the targets.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-print-directory

PROFILE ?= shapes#   shapes, photos (with DATA=DIR), coco, coco-mmdetection, mini
DATA ?=#             folder of your own images: train.json, val.json, images/; for coco, where COCO lies
CLASSES ?=#          of your own images: own, supercategory, one
BACKBONE ?=#         for your own images: resnet18, … or any of timm with maps
BACKBONE_WEIGHTS ?=# a file of ImageNet weights for it, in place of the published ones
CREDIT ?=#           whose images they are, and under which licence: shown beside them
IMAGES ?= shown#   hidden: keep them out of reports
SEEDS ?= 1#          seeds a run
JOBS ?= 2#           runs side by side
DEVICE ?= cpu#       cpu, cuda, cuda:1 …
PROCESSES ?= 1#      processes a training is shared by, one a GPU: started by torchrun
BATCH ?=#            images a step in place of the recipe's; rate and schedule follow (linear rule)
SPLITS ?= train,val# of COCO, those that make data fetches; val alone is enough for make zoo
WORKERS ?= 0#        further processes that load images, for each of those
PYTHON ?= python3#   the Python (3.11 or later) that .venv is made from
PRECISION ?= auto#   auto, float32, bfloat16, float16: of the network; losses are float32 always

CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
# Every target runs JOBS commands side by side, each with its share of the cores, unless -j was given.
ifeq ($(MAKELEVEL)$(filter -j%,$(MAKEFLAGS)),0)
MAKEFLAGS += -j$(strip $(JOBS))
endif
THREADS ?= $(shell n=$$(( $(CORES) / ($(JOBS) * $(PROCESSES)) )); echo $$(( n > 0 ? n : 1 )))

VENV := .venv
READY := $(VENV)/.ready
FREEANCHOR := $(VENV)/bin/freeanchor
# Trainings and tests of models: torchrun starts the same command several times. Many hosts: see the README.
LAUNCH = $(if $(filter-out 1,$(PROCESSES)),OMP_NUM_THREADS=$(strip $(THREADS)) $(VENV)/bin/torchrun --standalone --nproc_per_node=$(strip $(PROCESSES)) )$(FREEANCHOR)
empty :=
space := $(empty) $(empty)
hash := \#
# A user's words for the shell, whatever they hold: `$(value …)` keeps Make from expanding their dollars. A home's ~ at
# the front stays outside, since not every shell has put the folder in its place.
quoted = $(subst '~/,~/','$(subst ','\'',$(1))')
QUOTED_DATA := $(if $(value DATA),$(call quoted,$(value DATA)))
QUOTED_WEIGHTS := $(if $(value BACKBONE_WEIGHTS),$(call quoted,$(value BACKBONE_WEIGHTS)))
# The reports of photographs are named after their folder, and in their rules these marks would mean something else.
NAME := $(if $(filter photos,$(PROFILE)),$(if $(QUOTED_DATA),$(shell CDPATH= cd $(QUOTED_DATA) 2>/dev/null && basename "$$(pwd -P)")))
ODD := $(strip $(foreach mark,: ; | = * ? \ $(hash),$(if $(findstring $(mark),$(NAME)),$(mark))))
ifneq ($(ODD),)
$(error DATA: the name of the folder, $(NAME), must not hold $(ODD); rename the folder)
endif
ifneq ($(filter-out shown hidden,$(IMAGES)),)
$(error IMAGES=$(IMAGES): give shown or hidden)
endif
OWN_IMAGES = $(if $(strip $(CLASSES)), --classes $(strip $(CLASSES)))$(if $(strip $(BACKBONE)), --backbone $(strip \
	$(BACKBONE)))$(if $(QUOTED_WEIGHTS), --backbone-weights $(QUOTED_WEIGHTS))$(if \
	$(value CREDIT), --credit $(call quoted,$(value CREDIT)))$(if $(filter hidden,$(IMAGES)), --hide-images)
WHERE = --profile $(strip $(PROFILE)) --seeds $(strip $(SEEDS))$(if $(QUOTED_DATA), --data $(QUOTED_DATA))$(if $(strip \
	$(BATCH)), --batch-size $(strip $(BATCH)))$(if $(filter zoo,$(CHOSEN)), --chosen zoo)$(OWN_IMAGES)
HOW := --device $(strip $(DEVICE)) --threads $(strip $(THREADS)) --precision $(strip $(PRECISION)) \
	--workers $(strip $(WORKERS))

# Reports that `demo` makes wait for two runs only; asked for by name, they wait for every run that they show.
CHOSEN ?= $(firstword $(filter demo zoo trials models ablations,$(MAKECMDGOALS)) paper)
ifneq ($(word 2,$(filter demo paper zoo trials models ablations,$(MAKECMDGOALS))),)
$(error $(MAKECMDGOALS): each of demo, paper, zoo, trials, models, ablations plans for itself; make them one after the other)
endif
ifneq ($(and $(filter pack unpack,$(MAKECMDGOALS)),$(word 2,$(MAKECMDGOALS))),)
$(error $(MAKECMDGOALS): make pack and make unpack alone, before or after the others)
endif
REPORT_GOALS := demo paper zoo table1 table2 table3 figure1 figure2 figure3 figure4 figure5 figure6 training comparison \
	candidates convergence bag_overlap gallery_slender gallery_crowded gallery_random peer trials headline ablations claims models positions concentration part_distance bag_boxes report reports/% runs/%

# Published checkpoints that only a person can fetch are evaluated once they lie here.
BY_HAND := $(wildcard downloads/authors-*.pth)
# The rules of all runs and reports are generated from the registry, and again when it, or the user's data, changes.
PLAN := .make/$(strip $(PROFILE))-$(CHOSEN)-$(strip $(SEEDS))$(if $(strip $(BATCH)),-$(strip $(BATCH)))$(if $(filter zoo,$(CHOSEN)),-$(words $(BY_HAND)))$(if $(QUOTED_DATA),-$(shell printf '%s' $(call quoted,$(QUOTED_DATA)$(OWN_IMAGES)) | cksum | cut -d ' ' -f 1)).mk
SOURCES := $(shell find freeanchor analysis experiments -name '*.py')
# A user's files may have names that no rule can spell: find says whether they are younger than the plan, once a make.
YOUNGER := $(if $(MAKE_RESTARTS),,$(if $(QUOTED_DATA),$(shell find -L $(QUOTED_DATA)/ -maxdepth 2 -name '*.json' -newer $(PLAN) 2>/dev/null))$(if \
	$(QUOTED_WEIGHTS),$(shell find -L $(QUOTED_WEIGHTS) -newer $(PLAN) 2>/dev/null)))
# What the profile's reports were last written for: other seeds, or another folder, and back again must rewrite them.
ASKED := .make/$(strip $(PROFILE)).asked
REPORT_NEEDS := $(PLAN) $(ASKED) $(shell find experiments -name '*.html')

ifneq ($(filter $(REPORT_GOALS),$(MAKECMDGOALS)),)
$(shell mkdir -p .make; printf '%s\n' $(call quoted,$(WHERE)) | cmp -s - $(ASKED) || printf '%s\n' $(call quoted,$(WHERE)) > $(ASKED))
include $(PLAN)
endif

# The plan spells the page as Make reads it, with a backslash before each blank.
PAGE = $(call quoted,$(subst \$(space),$(space),$(REPORT)))

.PHONY: younger help setup demo paper zoo data pack unpack notebooks documents pooled bench test check clean purge

help: ## list the targets
	@echo "make TARGET [PROFILE=shapes|photos|coco|coco-mmdetection|mini] [DATA=DIR] [SEEDS=1] [JOBS=2]"
	@echo "            [CLASSES=own] [BACKBONE=] [BACKBONE_WEIGHTS=FILE] [CREDIT=TEXT] [IMAGES=shown]"
	@echo "            [DEVICE=cpu] [PROCESSES=1] [BATCH=] [PRECISION=auto] [WORKERS=0]"
	@grep -hE '^[a-z0-9 -]+:.*## ' $(MAKEFILE_LIST) | sort -u | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "freeanchor needs Python 3.11 or later; give one with make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

setup: $(READY) ## create .venv from requirements.lock

# Reports depend on the plan: a parameter changed and changed back gives the first table again.
$(PLAN): $(SOURCES) $(if $(YOUNGER),younger) | $(READY)
	@mkdir -p .make
	@$(FREEANCHOR) plan $(WHERE)$(if $(filter zoo,$(CHOSEN)),, --chosen $(CHOSEN)) > $@.$$$$ && mv $@.$$$$ $@ || \
		{ rm -f $@.$$$$; exit 2; }

demo: ## train both detectors on shapes, then every table and figure: minutes on two CPU cores
	@if $(MAKE) -q CHOSEN=demo $(PAGE) 2>/dev/null; then echo "demo: nothing to do, "$(PAGE)" is up to date"; \
	else $(MAKE) CHOSEN=demo $(PAGE) && echo "demo: done, open "$(PAGE); fi

paper: ## every run of the paper at this profile's size, then every table and figure
	@if $(MAKE) -q CHOSEN=paper $(PAGE) 2>/dev/null; then echo "paper: nothing to do, "$(PAGE)" is up to date"; \
	else $(MAKE) CHOSEN=paper $(PAGE) && echo "paper: done, open "$(PAGE); fi

zoo: ## fetch published RetinaNets and FreeAnchors and evaluate them into the tables (PROFILE=coco)
	@$(MAKE) CHOSEN=zoo $(PAGE) && echo "zoo: done, open "$(PAGE)

data: $(READY) ## draw the data of shapes, or fetch COCO 2017 (PROFILE=coco, 20 GB): into data/, or DATA=DIR
	@$(if $(filter coco coco-mmdetection,$(PROFILE)),$(FREEANCHOR) data coco $(or $(QUOTED_DATA),data/coco) \
		--splits $(strip $(SPLITS)),$(FREEANCHOR) data draw \
		freeanchor-small-s0 $(WHERE))

table1: ## NMS recall (Table 1)
table2: ## training time and the AP family, two backbones (Table 2)
table3: ## longer schedules, scale jitter, multi-scale testing (Table 3)
figure1: ## assignment by IoU against learned matching (Fig. 1)
figure2: ## the saturated linear function (Fig. 2)
figure3: ## the Mean-max function (Fig. 3)
figure4: ## matching of one object over training (Fig. 4)
figure5: ## slender against square objects (Fig. 5)
figure6: ## crowdedness (Fig. 6)
training: ## loss terms, learning rate and effective anchors over training
candidates: ## NMS recall from equally many candidates of both detectors
convergence: ## AP at snapshots over training
bag_overlap: ## IoU of an object's anchors by rank, beside COCO's
gallery_slender: ## images: slender objects that one detector alone finds
gallery_crowded: ## images: objects among many that one detector alone finds
gallery_random: ## images: drawn at random, under both detectors
headline: ## both detectors and their difference in one table
peer: ## both detectors less RetinaNet with torchvision's own loss (PROFILE=photos)
comparison: ## FreeAnchor minus RetinaNet in every metric, with paired intervals
ablations: ## FreeAnchor with one field of its loss changed at a time (Sec. 4.3)
claims: ## each claim of the paper with what was measured and a verdict
positions: ## where in objects matching happens, over the whole validation split
concentration: ## entropy, effective anchors and confidence of bags over training
part_distance: ## distance of matched anchors from the part that tells the class, and from the centre
bag_boxes: ## boxes and scores that an object's anchors give, by rank, both detectors
models: ## two small trained models, committed with the reports
trials: ## the settings tried before the recipe was fixed, by the baseline's AP
report: ## the page that shows them all

pack: $(READY) ## keep the measured runs, without weights, beside their reports: reports/…/kept/
	@$(FREEANCHOR) pack $(WHERE)

unpack: $(READY) ## put kept runs back into runs/: tables and figures again without a training
	@$(FREEANCHOR) unpack $(WHERE)

test: $(READY) ## run the tests
	$(VENV)/bin/python -m pytest -n $(JOBS)

notebooks: $(READY) ## execute the notebooks into reports/notebooks/*.html
	$(VENV)/bin/python -m experiments.reports.notebooks

documents: $(READY) ## fill the tables of README.md and REPRODUCING.md in from the reports
	$(VENV)/bin/python -m experiments.reports.documents

pooled: $(READY) ## claims over all sets of photographs together: reports/photos/pooled.md and index.html
	$(VENV)/bin/python -m experiments.reports.pooled --reports reports/photos

bench: $(READY) ## speed and memory against peers: reports/benchmarks.md (GT= a COCO json with the objects to evaluate)
	$(VENV)/bin/python -m experiments.bench.main --device $(strip $(DEVICE))$(if $(value GT), --gt $(call quoted,$(value GT)))

check: $(READY) test ## tests, ruff, mypy, and whether the documents' tables are the reports'
	$(VENV)/bin/python -m experiments.reports.documents --check
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy freeanchor analysis experiments examples

clean: ## remove caches and generated rules; runs, data and reports stay
	rm -rf .make .pytest_cache .hypothesis .ruff_cache .mypy_cache build *.egg-info
	find freeanchor analysis experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +

purge: clean ## remove the runs, the drawn data and .venv as well
	rm -rf runs data/shapes-* data/.shapes-* $(VENV)
	-@rmdir data 2>/dev/null || true

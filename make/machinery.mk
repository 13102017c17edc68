# What the Makefile's targets stand on: the set-up, a user's words for the shell, and the plan, the rules of all runs and
# reports, which `freeanchor plan` writes.

.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-print-directory

CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
# Every target runs JOBS commands side by side, each with its share of the cores, unless -j was given.
ifeq ($(MAKELEVEL)$(filter -j%,$(MAKEFLAGS)),0)
MAKEFLAGS += -j$(strip $(JOBS))
endif
ifeq ($(strip $(THREADS)),)
THREADS := $(shell n=$$(( $(CORES) / ($(JOBS) * $(PROCESSES)) )); echo $$(( n > 0 ? n : 1 )))
endif

VENV := .venv
READY := $(VENV)/.ready
FREEANCHOR := $(VENV)/bin/freeanchor
# Trainings and tests of models: torchrun starts the same command several times.
LAUNCH = $(if $(filter-out 1,$(PROCESSES)),OMP_NUM_THREADS=$(strip $(THREADS)) $(VENV)/bin/torchrun --standalone --nproc_per_node=$(strip $(PROCESSES)) )$(FREEANCHOR)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "freeanchor needs Python 3.11 or later; give one with make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Targets by group and variables, from their own lines: the reports' stand in a file of their own.
define HELP
sed '/^##@ Reports/r make/reports.mk' Makefile | awk -F ':.*## ' \
	'/^##@ / { printf "%s%s\n", (n++ ? "\n" : ""), substr($$0, 5) } \
	/^[a-z0-9_-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }'; \
printf '\nVariables, as in make table2 PROFILE=photos DATA=doors\n'; \
sed -n 's/^\([A-Z_]*\) ?= *\([^ #]*\)# *\(.*\)/\1=\2 \3/p' Makefile | \
	awk '{ name = $$1; $$1 = ""; printf "  %-24s%s\n", name, $$0 }'
endef

empty :=
comma := ,
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

# Targets that plan for runs of their own; EXTRAS are reports that are made on request.
PLANNED := demo paper zoo $(EXTRAS)
# Reports that `demo` makes wait for two runs only; asked for by name, they wait for every run that they show.
CHOSEN ?= $(firstword $(filter-out paper,$(filter $(PLANNED),$(MAKECMDGOALS))) paper)
ifneq ($(word 2,$(filter $(PLANNED),$(MAKECMDGOALS))),)
$(error $(MAKECMDGOALS): each of $(subst $(space),$(comma) ,$(PLANNED)) plans for itself; make them one after the other)
endif
ifneq ($(and $(filter pack unpack,$(MAKECMDGOALS)),$(word 2,$(MAKECMDGOALS))),)
$(error $(MAKECMDGOALS): make pack and make unpack alone, before or after the others)
endif

# Published checkpoints that only a person can fetch are evaluated once they lie here.
BY_HAND := $(wildcard downloads/authors-*.pth)
# The rules of all runs and reports are generated from the registry, and again when it, or the user's data, changes.
PLAN := .make/$(strip $(PROFILE))-$(CHOSEN)-$(strip $(SEEDS))$(if $(strip $(BATCH)),-$(strip $(BATCH)))$(if $(filter zoo,$(CHOSEN)),-$(words $(BY_HAND)))$(if $(QUOTED_DATA),-$(shell printf '%s' $(call quoted,$(QUOTED_DATA)$(OWN_IMAGES)) | cksum | cut -d ' ' -f 1)).mk
SOURCES := $(shell find freeanchor analysis experiments -name '*.py' -o -name '*.csv')
# A user's files may have names that no rule can spell: find says whether they are younger than the plan, once a make.
YOUNGER := $(if $(MAKE_RESTARTS),,$(if $(QUOTED_DATA),$(shell find -L $(QUOTED_DATA)/ -maxdepth 2 -name '*.json' -newer $(PLAN) 2>/dev/null))$(if \
	$(QUOTED_WEIGHTS),$(shell find -L $(QUOTED_WEIGHTS) -newer $(PLAN) 2>/dev/null)))
# What the profile's reports were last written for: other seeds, or another folder, and back again must rewrite them.
ASKED := .make/$(strip $(PROFILE)).asked
REPORT_NEEDS := $(PLAN) $(ASKED) $(shell find experiments -name '*.html')

ifneq ($(filter demo paper zoo report $(REPORTS) reports/% runs/%,$(MAKECMDGOALS)),)
$(shell mkdir -p .make; printf '%s\n' $(call quoted,$(WHERE)) | cmp -s - $(ASKED) || printf '%s\n' $(call quoted,$(WHERE)) > $(ASKED))
include $(PLAN)
endif

# Reports depend on the plan: a parameter changed and changed back gives the first table again.
.PHONY: younger
$(PLAN): $(SOURCES) $(if $(YOUNGER),younger) | $(READY)
	@mkdir -p .make
	@$(FREEANCHOR) plan $(WHERE)$(if $(filter zoo,$(CHOSEN)),, --chosen $(CHOSEN)) > $@.$$$$ && mv $@.$$$$ $@ || \
		{ rm -f $@.$$$$; exit 2; }

# The plan spells the page as Make reads it, with a backslash before each blank.
PAGE = $(call quoted,$(subst \$(space),$(space),$(REPORT)))

# The page by a plan of its own, or a word that nothing is to be done.
define up_to_date_or
if $(MAKE) -q CHOSEN=$(1) $(PAGE) 2>/dev/null; then echo "$(1): nothing to do, "$(PAGE)" is up to date"; \
	else $(MAKE) CHOSEN=$(1) $(PAGE) && echo "$(1): done, open "$(PAGE); fi
endef

# What the Makefile's targets stand on: a user's words as text, the set-up, and the plan, the rules of all runs and
# reports, which `freeanchor plan` writes.

.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-print-directory

empty :=
comma := ,
space := $(empty) $(empty)
tab := $(empty)	$(empty)
hash := \#
define newline


endef
DIGITS := 0 1 2 3 4 5 6 7 8 9
LETTERS := a b c d e f g h i j k l m n o p q r s t u v w x y z A B C D E F G H I J K L M N O P Q R S T U V W X Y Z
# Text without the marks of a list: `$(call without,marks,text)`.
without = $(if $(1),$(call without,$(wordlist 2,$(words $(1)),$(1)),$(subst $(firstword $(1)),,$(2))),$(2))

# What a user gives, on the command line or in the environment, is text. Overridden by its own unexpanded value, its
# dollars mean nothing: neither where it is used, nor where Make hands it to a command's environment.
text = $(if $(filter environment%,$(origin $(1))),$(eval export $(1)))$(eval override $(1) := $$(value $(1)))
ON_COMMAND_LINE := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(if $(call \
	without,$(LETTERS) $(DIGITS) _,$(name)),,$(name))))
$(foreach name,$(sort $(SETTINGS) CHOSEN $(ON_COMMAND_LINE)),$(if $(filter-out undefined file,$(origin $(name))),$(call text,$(name))))
# The same for the shell: in quotes, whatever it holds. At the front of a path a home's ~ stays outside, since not every
# shell has put the folder in its place.
quoted = '$(subst ','\'',$(1))'
quoted_path = $(subst '~/,~/',$(call quoted,$(1)))
quoted_word = $(call quoted,$(strip $($(1))))

# Refusals in one line; `make help` answers all the same.
refuse = $(if $(filter-out help,$(MAKECMDGOALS)),$(error $(1)))
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
# Numbers that Make computes with, and words that are parts of its files' names.
NO_NUMBER := $(strip $(foreach name,CORES JOBS PROCESSES SEEDS THREADS BATCH,$(if \
	$(call without,$(DIGITS),$(strip $($(name))))$(filter 0%,$($(name))),$(name))) $(foreach \
	name,CORES JOBS PROCESSES SEEDS,$(if $(strip $($(name))),,$(name))))
NO_NAME := $(strip $(foreach name,PROFILE CHOSEN,$(if $(call without,$(LETTERS) $(DIGITS) - _,$(strip $($(name)))),$(name))))
BROKEN := $(strip $(foreach name,$(SETTINGS),$(if $(findstring $(newline),$($(name))),$(name))))
$(if $(BROKEN),$(call refuse,$(BROKEN): must not hold a line break))
$(if $(NO_NUMBER),$(call refuse,$(NO_NUMBER): must be a whole number$(comma) 1 or more))
$(if $(NO_NAME),$(call refuse,$(NO_NAME): must be one word of letters$(comma) digits and -))
$(if $(filter-out shown hidden,$(IMAGES)),$(call refuse,IMAGES: give shown or hidden))
# For `make help`, which goes on: no shell computes with what is no number.
$(foreach name,$(NO_NUMBER) $(NO_NAME),$(eval override $(name) := 1))

# Every target runs JOBS commands side by side, each with its share of the cores, unless -j was given.
ifeq ($(MAKELEVEL)$(filter -j%,$(MAKEFLAGS)),0)
MAKEFLAGS += -j$(strip $(JOBS))
endif
ifeq ($(strip $(THREADS)),)
override THREADS := $(shell n=$$(( $(CORES) / ($(JOBS) * $(PROCESSES)) )); echo $$(( n > 0 ? n : 1 )))
endif

VENV := .venv
READY := $(VENV)/.ready
FREEANCHOR := $(VENV)/bin/freeanchor
# Trainings and tests of models: torchrun starts the same command several times.
LAUNCH = $(if $(filter-out 1,$(PROCESSES)),OMP_NUM_THREADS=$(strip $(THREADS)) $(VENV)/bin/torchrun --standalone --nproc_per_node=$(strip $(PROCESSES)) )$(FREEANCHOR)

# Several reports are written at once, by processes that would stand in each other's way with a thread per core.
THREADED = OMP_NUM_THREADS=$(strip $(THREADS))

$(READY): requirements.lock pyproject.toml
	@$(call quoted_path,$(PYTHON)) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "freeanchor needs Python 3.11 or later; give one with make PYTHON=python3.12" >&2; exit 2; }
	$(call quoted_path,$(PYTHON)) -m venv $(VENV)
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

QUOTED_DATA := $(if $(DATA),$(call quoted_path,$(DATA)))
QUOTED_WEIGHTS := $(if $(BACKBONE_WEIGHTS),$(call quoted_path,$(BACKBONE_WEIGHTS)))
# The reports of photographs are named after their folder, and in their rules these marks would mean something else.
NAME := $(if $(filter photos,$(PROFILE)),$(if $(QUOTED_DATA),$(shell CDPATH= cd $(QUOTED_DATA) 2>/dev/null && basename "$$(pwd -P)")))
ODD := $(strip $(foreach mark,: ; | = * ? \ $(hash),$(if $(findstring $(mark),$(NAME)),$(mark)))$(if \
	$(findstring $(tab),$(NAME)), a tab))
$(if $(ODD),$(call refuse,DATA: the name of the folder$(comma) $(NAME)$(comma) must not hold $(ODD); rename the folder))
OWN_IMAGES = $(if $(strip $(CLASSES)), --classes $(call quoted_word,CLASSES))$(if $(strip $(BACKBONE)), --backbone $(call \
	quoted_word,BACKBONE))$(if $(QUOTED_WEIGHTS), --backbone-weights $(QUOTED_WEIGHTS))$(if \
	$(CREDIT), --credit $(call quoted,$(CREDIT)))$(if $(filter hidden,$(IMAGES)), --hide-images)
QUOTED_ASSIGNER := $(if $(ASSIGNER),$(call quoted_path,$(ASSIGNER)))
METHODS = $(if $(strip $(COMPARE)), --compare $(foreach word,$(COMPARE),$(call quoted,$(word))))$(if \
	$(QUOTED_ASSIGNER), --assigner $(QUOTED_ASSIGNER))
WHERE = --profile $(strip $(PROFILE)) --seeds $(strip $(SEEDS))$(if $(QUOTED_DATA), --data $(QUOTED_DATA))$(if $(strip \
	$(BATCH)), --batch-size $(strip $(BATCH)))$(if $(filter zoo,$(CHOSEN)), --chosen zoo)$(OWN_IMAGES)$(METHODS)
HOW := --device $(call quoted_word,DEVICE) --threads $(strip $(THREADS)) --precision $(call quoted_word,PRECISION) \
	--workers $(call quoted_word,WORKERS)

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
# What the profile's reports were last written for: other seeds, another folder or other annotations in it, and back
# again must rewrite them. A user's files count by their content, whose date may be of any time; their names may be such
# that no rule can spell.
SEEN = $(if $(filter photos,$(PROFILE)),$(if $(QUOTED_DATA), $(shell { find -L $(QUOTED_DATA)/ -maxdepth 2 -type f -name '*.json' \
	-exec cksum {} +; $(if $(QUOTED_WEIGHTS),cksum $(QUOTED_WEIGHTS)); } 2>/dev/null | sort | cksum)))
ASKED := .make/$(strip $(PROFILE)).asked
REPORT_NEEDS := $(PLAN) $(ASKED) $(shell find experiments -name '*.html')

# Whether one command may make several targets; before GNU Make 4.3 it takes one for each.
TOGETHER := $(filter grouped-target,$(.FEATURES))

ifneq ($(filter demo paper zoo report first-page $(REPORTS) reports/% runs/%,$(MAKECMDGOALS)),)
NOW := $(call quoted,$(WHERE)$(SEEN)$(if $(QUOTED_ASSIGNER), $(shell cksum < $(QUOTED_ASSIGNER))))
$(shell mkdir -p .make; printf '%s\n' $(NOW) | cmp -s - $(ASKED) || printf '%s\n' $(NOW) > $(ASKED))
include $(PLAN)
endif

# Reports depend on the plan: a parameter changed and changed back gives the first table again.
$(PLAN): $(SOURCES) $(ASKED) | $(READY)
	@mkdir -p .make
	@$(FREEANCHOR) plan $(WHERE)$(if $(filter zoo,$(CHOSEN)),, --chosen $(CHOSEN)) > $@.$$$$ && mv $@.$$$$ $@ || \
		{ rm -f $@.$$$$; exit 2; }

# The plan spells the page as Make reads it, with a backslash before each blank.
PAGE = $(call quoted,$(subst \$(space),$(space),$(REPORT)))

# The page by a plan of its own, or a word that nothing is to be done. A demonstration shows one before its trainings.
define up_to_date_or
if $(MAKE) -q CHOSEN=$(1) $(PAGE) 2>/dev/null; then echo "$(1): nothing to do, "$(PAGE)" is up to date"; \
	else $(if $(filter demo,$(1)),$(MAKE) CHOSEN=$(1) first-page && )$(MAKE) CHOSEN=$(1) $(PAGE) && echo "$(1): done, open "$(PAGE); fi
endef

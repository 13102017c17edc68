"""Analyses of any detector's output: arrays and frames in, frames and figures out; knows no model, needs no GPU."""

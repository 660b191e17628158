"""Evaluation of trained models: measures of samples, classification by Bayes' rule, likelihoods and their intervals."""

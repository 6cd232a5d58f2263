"""The study of Zhang et al., ACS Omega 6 (2021) 12711: softmax, MC dropout and deep ensembles on own labels."""

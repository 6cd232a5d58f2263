"""The study of Li et al., Digital Discovery 4 (2025) 987: can a detector's F1 be predicted without labels?"""

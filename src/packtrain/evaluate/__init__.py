"""How good a model is: loss on rows that it was not trained on, answers side by side, talk."""

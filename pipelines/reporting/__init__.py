"""The receipt: collect what a run left, judge the predictions, and say it to a person."""

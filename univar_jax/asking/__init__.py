"""Questions and their journal of answers: the rooms behind elicit."""

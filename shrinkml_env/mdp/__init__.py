"""The parts of the decision process, one concept a module, and the search problem that they make up."""

"""The pass: which rule meets which operation, and the evaluation that sends probability down."""

"""Oracles that share nothing with the engine.

    functions   activations of one number, their direction, their lower bound by a search
    neurons     a network as neurons and connections; values by loops
    winners     marginal winning probabilities by Eq. 6, 19, 20 and D1, D3, D6, D10
    layers      networks of layers, and the neurons they stand for
    generator   random networks from a seed and a set of switches
    spell       a network as a JAX function, in one of many spellings
    perturbation  which elements depend on the input, by trying

The first four import neither jax nor the library.
"""

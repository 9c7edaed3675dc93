typedef int dikast_empty_layer; /* keeps a layer without sources linkable while it is being built */

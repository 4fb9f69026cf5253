//! What dfdx composes models of, for the traits of this crate that go through them.

/// Calls `$each!(A 0, B 1, ..)` for tuples of one to six modules.
macro_rules! for_tuples {
    ($each:ident) => {
        $each!(A 0);
        $each!(A 0, B 1);
        $each!(A 0, B 1, C 2);
        $each!(A 0, B 1, C 2, M 3);
        $each!(A 0, B 1, C 2, M 3, N 4);
        $each!(A 0, B 1, C 2, M 3, N 4, O 5);
    };
}

/// Calls `$each!(Wrapper, ..)` with the wrappers that are a tuple of one module.
macro_rules! for_wrappers {
    ($each:ident) => {
        $each!(AddInto, Residual, SplitInto);
    };
}

/// Calls `$each!([generics] Layer<..>, ..)` with the layers without parameters.
macro_rules! for_layers_without_parameters {
    ($each:ident) => {
        $each!(
            [] (),
            [] Abs,
            [] AccurateGeLU,
            [] AvgPoolGlobal,
            [] Cos,
            [] Dropout,
            [const N: usize] DropoutOneIn<N>,
            [] Exp,
            [] FastGeLU,
            [E: Dtype] LeakyReLU<E>,
            [] Ln,
            [] LogSoftmax,
            [] MaxPoolGlobal,
            [] MinPoolGlobal,
            [] ReLU,
            [S: ConstShape] Reshape<S>,
            [] Sigmoid,
            [] Sin,
            [] Softmax,
            [] Sqrt,
            [] Square,
            [] Tanh,
        );
    };
}

pub(crate) use {for_layers_without_parameters, for_tuples, for_wrappers};

use edkm_cluster::MatrixShape;

use super::of_divided;

/// d(s w)² = s² dw²
#[test]
fn an_error_in_a_divided_row_counts_by_the_square_of_its_factor() {
    let shape = MatrixShape::new(2, 2);
    let importance = [1.0, 2.0, 3.0, 4.0];
    assert_eq!(
        of_divided(&importance, shape, Some(&[2.0, 0.5]))[..],
        [4.0, 8.0, 0.75, 1.0]
    );
    assert_eq!(of_divided(&importance, shape, None)[..], importance);
}
